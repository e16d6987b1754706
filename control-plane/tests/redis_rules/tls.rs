//! Redis over TLS, with and without client certificates.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use realmgate_control_plane::source::gateway_rules::RedisTlsFiles;

use super::server::TLS_PORT;
use super::{OFTEN, Scene, rules, until_served, until_trouble};

/// Writes an authority, and a certificate for any address that a test's Redis may have, and gives their files.
fn certificates(directory: &Path, name: &str, addresses: &[String]) -> (PathBuf, PathBuf, PathBuf) {
    let path = |kind: &str| directory.join(format!("{name}-{kind}.pem"));
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    fs::write(path("ca"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(addresses.to_vec()).unwrap();
    // Otherwise it is called like its authority, and OpenSSL takes it for self-signed.
    leaf.distinguished_name.push(DnType::CommonName, name);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    fs::write(path("cert"), leaf.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    (path("ca"), path("cert"), path("key"))
}

#[tokio::test]
async fn redis_and_we_know_each_other_by_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let mut scene = Scene::new();
    scene.redis.kill();
    let (ca, cert, key) = certificates(directory.path(), "good", &[scene.redis.host()]);
    let (other_ca, other_cert, other_key) =
        certificates(directory.path(), "other", &["cache.internal".to_owned()]);
    let text = |path: &PathBuf| path.display().to_string();
    scene.redis.restart_with(&[
        "--tls-port",
        &TLS_PORT.to_string(),
        "--tls-cert-file",
        &text(&cert),
        "--tls-key-file",
        &text(&key),
        "--tls-ca-cert-file",
        &text(&ca),
        "--tls-auth-clients",
        "yes",
    ]);
    scene.write(&rules(&[(10, "a")])).await;
    let url = scene.redis.tls_url();
    let both =
        |ca: &PathBuf, client: Option<(PathBuf, PathBuf)>| RedisTlsFiles { ca: Some(ca.clone()), client };

    for (files, why) in [
        (both(&other_ca, Some((cert.clone(), key.clone()))), "certificate"),
        (both(&ca, None), "Redis at"),
        (both(&ca, Some((other_cert, other_key))), "Redis at"),
        (both(&directory.path().join("missing.pem"), None), "missing.pem"),
        (both(&ca, Some((cert.clone(), ca.clone()))), "it holds no private key"),
    ] {
        let source = scene.start_at(&url, files, OFTEN);
        until_trouble(&source, why).await;
        source.stop().await;
    }
    let source = scene.start_at(&url, both(&ca, Some((cert, key))), OFTEN);
    until_served(&source, &[("10", "a")]).await;
    scene.write(&rules(&[(10, "b")])).await;
    until_served(&source, &[("10", "b")]).await;
    source.stop().await;
}
