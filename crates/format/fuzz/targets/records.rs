//! Records, redos and openings read back: nothing panics, and what is accepted
//! is written again as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence_format::leaf::{Openings, SealedRecord};
use ringfence_format::record::Record;
use ringfence_format::redo::Redo;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(sealed) = SealedRecord::from_bytes(bytes) {
        let again = SealedRecord::from_bytes(&sealed.to_bytes()).expect("what we wrote");
        assert_eq!(again, sealed);
    }
    if let Ok(openings) = Openings::from_bytes(bytes) {
        assert_eq!(Openings::from_bytes(&openings.to_bytes()).expect("what we wrote"), openings);
        let _ = openings.fields();
        let _ = openings.entry();
    }
    if let Ok(record) = minicbor::decode::<Record>(bytes) {
        let again: Record = minicbor::decode(&minicbor::to_vec(&record).expect("in memory")).expect("what we wrote");
        assert_eq!(again, record);
    }
    if let Ok(redo) = minicbor::decode::<Redo>(bytes) {
        let again: Redo = minicbor::decode(&minicbor::to_vec(&redo).expect("in memory")).expect("what we wrote");
        assert_eq!(again, redo);
    }
});
