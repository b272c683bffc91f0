//! What a site may answer with, and names from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence_format::chunk::parse_name;
use ringfence_format::envelope::Fetched;
use ringfence_format::head;
use ringfence_format::names::{BucketName, KeyId, ObjectKey, Tenant};

fuzz_target!(|bytes: &[u8]| {
    let _ = head::parse(&Fetched::new(bytes::Bytes::copy_from_slice(bytes)));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_name(text);
    for name in [
        BucketName::parse(text).map(|n| n.to_string()),
        ObjectKey::parse(text).map(|n| n.to_string()),
        Tenant::parse(text).map(|n| n.to_string()),
        KeyId::parse(text).map(|n| n.to_string()),
    ] {
        assert!(name.is_err() || name.as_deref() == Ok(text), "a name is what was parsed");
    }
});
