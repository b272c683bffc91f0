//! One signal that ends everything.

use tokio::sync::watch;

/// Hears when the server stops.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

/// Says that the server stops; so does dropping it.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

/// A pair that belongs together.
pub fn channel() -> (Stop, Stopping) {
    let (sender, receiver) = watch::channel(false);
    (Stop(sender), Stopping(receiver))
}

impl Stop {
    /// Everybody who listens ends in order.
    pub fn now(&self) {
        let _ = self.0.send(true);
    }
}

impl Stopping {
    /// Returns when the server stops.
    pub async fn stopped(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
