//! Names, parsed once: a value of one of these types obeys its rule.
//!
//! Two kinds of identifier never share a type, so a bucket cannot be passed
//! where a tenant is asked for.

use std::{fmt, str::FromStr};

use crate::limits;

/// Why a text is not the name it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` {why}")]
pub struct BadName {
    what: &'static str,
    given: String,
    why: &'static str,
}

fn bad(what: &'static str, given: &str, why: &'static str) -> BadName {
    let given = given.chars().take(80).collect();
    BadName { what, given, why }
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] String);

        impl $name {
            /// Parses and checks; see the type for the rule.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| bad($what, text, why))?;
                Ok(Self(text.to_owned()))
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                Self::parse(s)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
        // Decoding parses again: a name read back from a record or a site
        // obeys the same rule as one a client sent.
        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Self::parse(d.str()?).map_err(minicbor::decode::Error::message)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn short(text: &str) -> Result<(), &'static str> {
    let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    match text.as_bytes() {
        [] => Err("is empty"),
        b if b.len() > limits::SHORT_NAME_BYTES_MAX => Err("is longer than 63 characters"),
        b if !b.iter().all(|c| ok(*c)) => Err("may hold only a-z, 0-9 and -"),
        [b'-', ..] | [.., b'-'] => Err("may not begin or end with -"),
        _ => Ok(()),
    }
}

text_name!(
    /// One trust root: its keys open and sign nothing outside it.
    /// 1–63 of `a-z`, `0-9`, `-`, not at the ends.
    Realm, "realm", short
);
text_name!(
    /// Owner of buckets; belongs to exactly one realm. Same rule as [`Realm`].
    Tenant, "tenant", short
);
text_name!(
    /// Somebody or something that acts for a tenant. Same rule as [`Realm`].
    Principal, "principal", short
);
text_name!(
    /// A place that stores sealed chunks. Same rule as [`Realm`].
    SiteId, "site", short
);
text_name!(
    /// A classification such as `internal`. Which label is stricter is
    /// configuration. Same rule as [`Realm`].
    Label, "label", short
);
text_name!(
    /// A public access key id: 16–128 of `A-Z`, `a-z`, `0-9`.
    KeyId, "access key id",
    |text| match text.len() {
        16..=128 if text.bytes().all(|c| c.is_ascii_alphanumeric()) => Ok(()),
        16..=128 => Err("may hold only letters and digits"),
        _ => Err("must have 16 to 128 characters"),
    }
);
text_name!(
    /// An S3 bucket name, by the rules for general purpose buckets
    /// (Amazon S3 User Guide, "General purpose bucket naming rules").
    BucketName, "bucket name",
    |text| {
        let b = text.as_bytes();
        let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        if !(limits::BUCKET_NAME_BYTES_MIN..=limits::BUCKET_NAME_BYTES_MAX).contains(&b.len()) {
            Err("must have 3 to 63 characters")
        } else if !b.iter().all(|c| ok(*c)) {
            Err("may hold only a-z, 0-9, - and .")
        } else if !b[0].is_ascii_alphanumeric() || !b[b.len() - 1].is_ascii_alphanumeric() {
            Err("must begin and end with a letter or digit")
        } else if text.contains("..") || text.contains(".-") || text.contains("-.") {
            Err("may hold only letters and digits beside a dot")
        } else if text.parse::<std::net::Ipv4Addr>().is_ok() {
            Err("may not look like an IP address")
        } else if text.starts_with("xn--") || text.ends_with("-s3alias") {
            Err("uses a reserved prefix or suffix")
        } else {
            Ok(())
        }
    }
);
text_name!(
    /// An object key: 1 to 1,024 bytes of UTF-8, anything inside.
    ObjectKey, "object key",
    |text| match text.len() {
        0 => Err("is empty"),
        n if n > limits::OBJECT_KEY_BYTES_MAX => Err("is longer than 1024 bytes"),
        _ => Ok(()),
    }
);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

        impl $name {
            /// The 16 bytes, for associated data and tables.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
            /// Parses 32 hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut id = [0; 16];
                hex::decode_to_slice(text, &mut id).ok()?;
                Some(Self(id))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

random_id!(
    /// One installation of Ringfence: every chunk name begins with it.
    InstallationId
);
random_id!(
    /// One bucket, for ever: a bucket made anew under the same name has another.
    BucketId
);
random_id!(
    /// One version of one object, never reused. Random, so that it says
    /// nothing about the name.
    VersionUid
);
random_id!(
    /// One part of one version (a FLOE message of its own).
    PartId
);
random_id!(
    /// One attempt to write: every chunk it makes carries it in its name.
    UploadId
);

/// The immutable name of a sealed thing: what the associated data binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
pub struct ObjectVersion {
    /// Whose keys.
    #[n(0)]
    pub realm: Realm,
    /// Whose data.
    #[n(1)]
    pub tenant: Tenant,
    /// In which bucket.
    #[n(2)]
    pub bucket: BucketId,
    /// Which version of which object.
    #[n(3)]
    pub version: VersionUid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_published_rules() {
        for good in ["abc", "a.b-c", "0ab", "my-bucket.example"] {
            assert!(BucketName::parse(good).is_ok(), "{good}");
        }
        for bad in ["ab", "Abc", "a..b", "-abc", "abc-", "192.168.1.1", "a_b", "a.-b", "a-.b", "xn--abc", ".abc", ""] {
            assert!(BucketName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_read_back_obeys_the_rule_of_one_sent() {
        let bytes = minicbor::to_vec("UPPER").expect("in memory");
        assert!(minicbor::decode::<Tenant>(&bytes).is_err());
    }
}
