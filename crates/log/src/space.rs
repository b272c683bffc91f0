//! Which record may still be written when space runs out.
//!
//! Records go into segments that were filled with zeros beforehand, so a full
//! disk is met when the next segment is prepared, never while a record is
//! written. From then on only what is prepared is left: writes stop first,
//! then reads; deletes, revocations and administration go on into a segment
//! held in reserve for them (ruling 16).

use crate::recorded::Class;

/// What is left to write into, as the sequencer plans it. Whoever rolls to
/// the next segment follows this plan, so a record that was admitted fits.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    /// Bytes left in the segment that the last admitted record goes to.
    pub(crate) left: u64,
    /// Bytes for frames in a fresh segment.
    pub(crate) room: u64,
    /// The segment prepared for the next roll.
    pub(crate) spare: Spare,
    /// Whether the reserve is there.
    pub(crate) reserve: bool,
    /// Whether a roll was planned that no spare is there for yet; until one
    /// is, the reserve stands in for it.
    pub(crate) owed: bool,
    /// Whether more segments can be prepared.
    pub(crate) growth: Growth,
    /// Whether records go into what was the reserve.
    pub(crate) on_reserve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// Not there, or not yet.
    Absent,
    /// There, and nobody has planned with it.
    Ready,
    /// There, and the next roll takes it.
    Planned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// As far as is known, yes.
    Free,
    /// No: the disk is full, or the budget is used up.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Busy,
    TooLarge,
}

impl Space {
    /// Plans a frame of `bytes`, or refuses it and changes nothing.
    pub(crate) fn admit(&mut self, class: Class, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.room {
            return Err(Refusal::TooLarge);
        }
        if self.growth == Growth::Stopped && !self.admits_when_stopped(class, bytes) {
            return Err(Refusal::Full);
        }
        if bytes <= self.left {
            self.left -= bytes;
            return Ok(());
        }
        if self.spare == Spare::Ready {
            self.spare = Spare::Planned;
        } else if self.reserve && !self.owed {
            self.owed = true;
            self.on_reserve |= self.growth == Growth::Stopped;
        } else {
            return Err(Refusal::Busy);
        }
        self.left = self.room - bytes;
        Ok(())
    }

    fn admits_when_stopped(&self, class: Class, bytes: u64) -> bool {
        let ready = if self.spare == Spare::Ready { self.room } else { 0 };
        let fits = bytes <= self.left || ready > 0;
        match class {
            // Half a segment is kept for reads after writes have stopped.
            Class::Write => !self.on_reserve && fits && self.left + ready >= bytes + self.room / 2,
            Class::Ordinary => !self.on_reserve && fits,
            Class::Reserved => fits || (self.reserve && !self.owed),
        }
    }

    /// Plans a roll before the segment is full; `waiting` bytes were planned
    /// and are not written yet, and go to the next one. Whether it could be.
    pub(crate) fn roll_early(&mut self, waiting: u64) -> bool {
        if self.spare != Spare::Ready || self.owed || waiting > self.room {
            return false;
        }
        self.spare = Spare::Planned;
        self.left = self.room - waiting;
        true
    }

    /// Whether a roll is planned that has not happened yet.
    pub(crate) fn rolls_soon(&self) -> bool {
        self.owed || self.spare == Spare::Planned
    }

    /// A spare is on the disk.
    pub(crate) fn spare_made(&mut self) {
        self.spare = if self.owed { Spare::Planned } else { Spare::Ready };
        self.owed = false;
        self.growth = Growth::Free;
        self.on_reserve = false;
    }

    /// The reserve is on the disk.
    pub(crate) fn reserve_made(&mut self) {
        self.reserve = true;
        if self.spare != Spare::Absent {
            self.growth = Growth::Free;
            self.on_reserve = false;
        }
    }

    /// No further segment can be prepared for now.
    pub(crate) fn growth_stopped(&mut self) {
        self.growth = Growth::Stopped;
        self.on_reserve |= self.owed;
    }

    /// What the roll takes now; nothing if it must wait for one to be made.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        if self.spare != Spare::Absent {
            self.spare = Spare::Absent;
            return Some(Taken::Spare);
        }
        if self.growth == Growth::Free || !self.reserve {
            return None;
        }
        self.reserve = false;
        self.owed = false;
        self.on_reserve = true;
        Some(Taken::Reserve)
    }
}

/// Which prepared file becomes the next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Spare,
    Reserve,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(left: u64, spare: Spare) -> Space {
        Space { left, room: 1000, spare, reserve: true, owed: false, growth: Growth::Stopped, on_reserve: false }
    }

    fn taken(space: &mut Space, class: Class) -> usize {
        (0..).take_while(|_| space.admit(class, 100).is_ok()).count()
    }

    #[test]
    fn writes_stop_before_reads_and_reads_before_deletes() {
        let mut space = stopped(1000, Spare::Absent);
        assert_eq!(taken(&mut space, Class::Write), 5);
        assert_eq!(taken(&mut space, Class::Ordinary), 5);
        assert_eq!(taken(&mut space, Class::Reserved), 10);
        assert!(space.on_reserve);
        assert_eq!(space.admit(Class::Ordinary, 1), Err(Refusal::Full));
    }

    #[test]
    fn a_reserve_that_was_entered_is_closed_to_reads() {
        let mut space = stopped(0, Spare::Absent);
        assert_eq!(space.admit(Class::Reserved, 100), Ok(()));
        assert_eq!(space.admit(Class::Ordinary, 100), Err(Refusal::Full));
        space.spare_made();
        assert_eq!(space.admit(Class::Ordinary, 100), Ok(()));
    }

    #[test]
    fn a_roll_without_a_spare_is_backed_by_the_reserve_once() {
        let mut space = stopped(0, Spare::Absent);
        space.growth = Growth::Free;
        assert_eq!(taken(&mut space, Class::Write), 10);
        assert_eq!(space.admit(Class::Reserved, 100), Err(Refusal::Busy));
        assert_eq!(space.take(), None, "waits while one is being made");
        space.growth_stopped();
        assert_eq!(space.admit(Class::Ordinary, 1), Err(Refusal::Full));
        assert_eq!(space.take(), Some(Taken::Reserve));
        assert_eq!(space.admit(Class::Reserved, 100), Err(Refusal::Full));
    }

    #[test]
    fn a_stop_ends_when_spare_and_reserve_are_there_in_any_order() {
        let mut space = stopped(0, Spare::Ready);
        space.reserve = false;
        space.reserve_made();
        assert_eq!(space.growth, Growth::Free);
        let mut space = stopped(0, Spare::Absent);
        space.reserve_made();
        assert_eq!(space.growth, Growth::Stopped);
        space.spare_made();
        assert_eq!(space.growth, Growth::Free);
    }

    #[test]
    fn an_early_roll_takes_what_waits_along_and_needs_a_spare() {
        let mut space = stopped(900, Spare::Absent);
        assert!(!space.roll_early(0));
        space.spare_made();
        assert!(space.roll_early(150));
        assert_eq!((space.left, space.spare), (850, Spare::Planned));
        assert!(space.rolls_soon() && !space.roll_early(0), "one at a time");
        assert_eq!(space.take(), Some(Taken::Spare));
    }

    #[test]
    fn a_spare_that_was_owed_is_planned_at_once() {
        let mut space = stopped(0, Spare::Absent);
        space.growth = Growth::Free;
        assert_eq!(space.admit(Class::Write, 100), Ok(()));
        space.spare_made();
        assert_eq!(space.spare, Spare::Planned);
        assert_eq!(space.take(), Some(Taken::Spare));
        assert!(space.reserve);
    }
}
