//! What providers do differently, in one table.
//!
//! A row changes how a request is made, or tells an operator what to expect;
//! it never changes what the contract promises. `tested` says against what the
//! contract has been run: most providers have no counterpart that a test can
//! start, and their rows come from their documentation.

use super::Service;

/// How the bucket is named in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// `https://endpoint/bucket/name`
    Path,
    /// `https://bucket.endpoint/name`
    VirtualHost,
}

/// What `If-None-Match: *` on a write does, by documentation. `site check`
/// finds out what it really does; nothing we store relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CreateOnly {
    /// An existing name is refused.
    Honoured,
    /// The header is ignored and the name overwritten.
    Ignored,
    /// The request is answered with an error.
    Refused,
    /// Nobody says.
    Unknown,
}

/// Against what the contract has been run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tested {
    /// Against the provider's own software, started by our tests.
    Real,
    /// Against somebody else's emulation of it, started by our tests.
    Emulated,
    /// Not tested against the real service.
    No,
}

/// One provider.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Quirks {
    /// The word for it in the configuration.
    pub provider: &'static str,
    /// The protocol it is spoken to with.
    pub service: Service,
    /// Its endpoint where it has only one.
    pub endpoint: Option<&'static str>,
    /// Region to sign for when the configuration names none.
    pub region: &'static str,
    /// How the bucket is named.
    pub style: Style,
    /// Checksum header sent with uploads, where it is understood.
    pub upload_checksum: Option<&'static str>,
    /// Entries asked for in one page of a listing.
    pub list_page: usize,
    /// Conditional creation.
    pub create_only: CreateOnly,
    /// What to know about it.
    pub note: &'static str,
    /// Against what the contract has been run.
    pub tested: Tested,
}

const PLAIN: Quirks = Quirks {
    provider: "s3",
    service: Service::S3,
    endpoint: None,
    region: "us-east-1",
    style: Style::Path,
    upload_checksum: None,
    list_page: 1000,
    create_only: CreateOnly::Unknown,
    note: "any other store that speaks S3; path style, no extensions used",
    tested: Tested::Real,
};

/// Every provider we know. The first row of a service is what an unknown
/// provider of that service is treated as.
pub const TABLE: &[Quirks] = &[
    PLAIN,
    Quirks {
        provider: "aws",
        endpoint: Some("https://s3.amazonaws.com"),
        style: Style::VirtualHost,
        upload_checksum: Some("crc32c"),
        create_only: CreateOnly::Honoured,
        note: "set `region`; buckets whose name holds a dot need path style (provider `s3`) because of TLS",
        tested: Tested::Emulated,
        ..PLAIN
    },
    Quirks {
        provider: "s3-virtual-host",
        style: Style::VirtualHost,
        note: "any other store that speaks S3 and wants the bucket in the host name",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "r2",
        region: "auto",
        create_only: CreateOnly::Honoured,
        note: "endpoint `https://<account>.r2.cloudflarestorage.com`; jurisdiction-bound buckets have their own",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "b2",
        create_only: CreateOnly::Refused,
        note: "the bucket's region is in its endpoint; a delete hides the file unless the bucket keeps only the last version",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "oci",
        create_only: CreateOnly::Honoured,
        note: "endpoint `https://<namespace>.compat.objectstorage.<region>.oraclecloud.com`; set `region`",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "wasabi",
        create_only: CreateOnly::Unknown,
        note: "set endpoint and `region`; objects are billed for at least 90 days, erased or not",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "ceph",
        create_only: CreateOnly::Honoured,
        note: "RADOS gateway; `region` is the zonegroup's api name where one is set",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "minio",
        create_only: CreateOnly::Honoured,
        note: "answers 503 `SlowDown` early; listings of many small objects are slow",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "garage",
        region: "garage",
        create_only: CreateOnly::Unknown,
        note: "`region` must equal `s3_region` of its configuration",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "swift",
        create_only: CreateOnly::Ignored,
        note: "Swift's s3api; containers are eventually consistent, a listing may miss what was just written",
        tested: Tested::No,
        ..PLAIN
    },
    Quirks {
        provider: "moto",
        upload_checksum: Some("crc32c"),
        // Small, so that the contract sees more than one page.
        list_page: 100,
        create_only: CreateOnly::Honoured,
        note: "in memory, accepts any credential: for tests only",
        tested: Tested::Real,
        ..PLAIN
    },
    Quirks {
        provider: "rclone",
        // Small, so that the contract sees more than one page.
        list_page: 100,
        create_only: CreateOnly::Ignored,
        note: "`rclone serve s3` over a folder; does not sync, so not durable",
        tested: Tested::Real,
        ..PLAIN
    },
    Quirks {
        provider: "azure",
        service: Service::Azure,
        create_only: CreateOnly::Honoured,
        note: "endpoint `https://<account>.blob.core.windows.net`; turn soft delete off if erasure must be prompt",
        tested: Tested::Emulated,
        ..PLAIN
    },
    Quirks {
        provider: "azurite",
        service: Service::Azure,
        // Small, so that the contract sees more than one page.
        list_page: 100,
        create_only: CreateOnly::Honoured,
        note: "the emulator: for tests only",
        tested: Tested::Real,
        ..PLAIN
    },
    Quirks {
        provider: "gcs",
        service: Service::Gcs,
        endpoint: Some("https://storage.googleapis.com"),
        create_only: CreateOnly::Honoured,
        note: "turn soft delete off (`gcloud storage buckets update --clear-soft-delete`) if erasure must be prompt",
        tested: Tested::Emulated,
        ..PLAIN
    },
    Quirks {
        provider: "gcs-emulator",
        service: Service::Gcs,
        // Small, so that the contract sees more than one page.
        list_page: 100,
        create_only: CreateOnly::Ignored,
        note: "the emulator: for tests only; ignores `ifGenerationMatch`",
        tested: Tested::Real,
        ..PLAIN
    },
];

/// The row of `provider`; an unknown word gets the first row of the service.
/// `None` if the provider is known not to speak it.
pub fn of(provider: &str, service: Service) -> Option<&'static Quirks> {
    match TABLE.iter().find(|row| row.provider == provider) {
        Some(row) => (row.service == service).then_some(row),
        None => TABLE.iter().find(|row| row.service == service),
    }
}

/// Whether an error's text says that the site is full or over quota: S3 has no
/// error kind for it, so each provider has its word.
pub fn means_full(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "InsufficientStorage",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "QuotaExceeded",
        "StorageQuotaExceeded",
        "AccountStorageExceeded",
        "storage_cap_exceeded",
        "status: 507",
    ];
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_stands_once_and_says_what_to_know() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.provider != row.provider), "{} twice", row.provider);
            assert!(!row.note.is_empty() && row.note.is_ascii(), "{}", row.provider);
            assert!(row.endpoint.is_none_or(|e| e.starts_with("https://")), "{}", row.provider);
            assert!(row.service == Service::S3 || row.style == Style::Path, "{}", row.provider);
        }
    }

    #[test]
    fn an_unknown_provider_is_a_plain_one_of_its_service() {
        assert_eq!(of("somebody", Service::S3).map(|q| q.provider), Some("s3"));
        assert_eq!(of("somebody", Service::Azure).map(|q| q.provider), Some("azure"));
        assert!(of("azure", Service::S3).is_none());
    }

    #[test]
    fn a_full_site_is_told_from_a_busy_one() {
        assert!(means_full("S3Error { code: \"XMinioStorageFull\" }"));
        assert!(means_full("Unexpected, context: { response: Parts { status: 507 } }"));
        assert!(!means_full("SlowDown"));
    }
}
