//! Every kind of site keeps the one contract, against a real counterpart that
//! the test starts on a free port of loopback and stops again.

mod services;

use ringfence_db::disk::RealDisk;
use ringfence_format::names::{InstallationId, SiteId};
use ringfence_store::site::{FirstUse, RemoteConfig, Service, Site, SiteCredential, SiteInfo, SiteKind, contract};
use services::Counterpart;

fn info(provider: &str) -> SiteInfo {
    let id = SiteId::parse(provider).expect("a name");
    SiteInfo::new(id, SiteKind::Public, "DE", provider)
}

fn remote(provider: &str, service: Service, endpoint: String, credential: SiteCredential) -> Site {
    let config = RemoteConfig {
        service,
        endpoint: Some(endpoint),
        bucket: "ringfence-contract".into(),
        prefix: "below/this".into(),
        region: None,
    };
    Site::open_remote(info(provider), &config, credential).expect("configured")
}

async fn keeps_the_contract(site: &Site) {
    match contract::check(site, 1).await {
        Ok(report) => println!("{report}"),
        Err(broken) => panic!("{broken}"),
    }
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let installation = InstallationId([1; 16]);
    let site = Site::open_dir(info("local"), dir.path(), installation, FirstUse::Create, RealDisk::shared());
    let site = site.expect("opened");
    keeps_the_contract(&site).await;
    // And again: what the first run left does not disturb a second.
    contract::check(&site, 2).await.expect("kept");
}

#[tokio::test]
async fn s3_keeps_the_contract_with_moto() {
    let moto = Counterpart::moto().await;
    let site = remote("moto", Service::S3, moto.url(""), services::s3_credential());
    keeps_the_contract(&site).await;
}

#[tokio::test]
async fn s3_keeps_the_contract_with_rclone() {
    let rclone = Counterpart::rclone().await;
    let site = remote("rclone", Service::S3, rclone.url(""), services::s3_credential());
    keeps_the_contract(&site).await;
}

#[tokio::test]
async fn azure_keeps_the_contract_with_azurite() {
    let azurite = Counterpart::azurite().await;
    let site = remote("azurite", Service::Azure, azurite.url("/devstoreaccount1"), services::azure_credential());
    keeps_the_contract(&site).await;
}

#[tokio::test]
async fn gcs_keeps_the_contract_with_its_emulator() {
    let gcs = Counterpart::gcs().await;
    let site = remote("gcs-emulator", Service::Gcs, gcs.url(""), SiteCredential::anonymous());
    keeps_the_contract(&site).await;
}
