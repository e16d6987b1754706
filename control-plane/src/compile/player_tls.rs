//! TLS between players and a game listener. The listener only names its secrets; each of them names files on the
//! Envoy's machine, whose folder Envoy watches. New files are taken without touching the listener: connections that
//! are open go on as they began.

use std::path::Path;

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, TransportSocket, WatchedDirectory, data_source, transport_socket,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    TlsCertificate, TlsParameters, secret, tls_parameters::TlsProtocol,
};
use envoy_types::pb::google::protobuf::BoolValue;

use super::envoy;
use crate::model::{Listener, PlayerTls, TlsVersion};
use crate::xds::Resource;

/// Names no policy service can have: they hold a slash.
fn certificate_name(listener: &str) -> String {
    format!("players/{listener}/certificate")
}

fn authorities_name(listener: &str) -> String {
    format!("players/{listener}/client_ca")
}

/// What the listener's connections go through; `None` = they are in the clear.
pub(super) fn transport_socket(listener: &Listener) -> Option<TransportSocket> {
    let tls = listener.tls.as_ref()?;
    let by_name = |name: String| SdsSecretConfig { name, sds_config: Some(envoy::ads()) };
    let least = match tls.min_version {
        TlsVersion::Tls12 => TlsProtocol::TlSv12,
        TlsVersion::Tls13 => TlsProtocol::TlSv13,
    };
    let authorities = by_name(authorities_name(&listener.name));
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: least.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![by_name(certificate_name(&listener.name))],
        validation_context_type: tls
            .client_ca_file
            .is_some()
            .then_some(ValidationContextType::ValidationContextSdsSecretConfig(authorities)),
        ..CommonTlsContext::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: tls.client_ca_file.is_some() }),
        ..DownstreamTlsContext::default()
    };
    Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(envoy::any(&context))),
    })
}

/// The secrets that [`transport_socket`] names: paths, no keys.
pub(super) fn secrets(listener: &Listener) -> impl Iterator<Item = Resource> {
    let tls = listener.tls.as_ref();
    let certificate = tls.map(|tls| certificate(&listener.name, tls));
    let authorities = tls.and_then(|tls| {
        let context = CertificateValidationContext {
            trusted_ca: Some(file(tls.client_ca_file.as_ref()?)),
            watched_directory: folder(tls.client_ca_file.as_ref()?),
            ..CertificateValidationContext::default()
        };
        Some(secret(authorities_name(&listener.name), secret::Type::ValidationContext(context)))
    });
    certificate.into_iter().chain(authorities)
}

fn certificate(listener: &str, tls: &PlayerTls) -> Resource {
    let certificate = TlsCertificate {
        certificate_chain: Some(file(&tls.cert_file)),
        private_key: Some(file(&tls.key_file)),
        // Kubernetes replaces a link beside the files and not the files: the folder has to be watched.
        watched_directory: folder(&tls.cert_file),
        ..TlsCertificate::default()
    };
    secret(certificate_name(listener), secret::Type::TlsCertificate(certificate))
}

fn secret(name: String, content: secret::Type) -> Resource {
    Resource::new(name.clone(), &Secret { name, r#type: Some(content) })
}

fn file(path: &str) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::Filename(path.to_owned())), ..DataSource::default() }
}

fn folder(path: &str) -> Option<WatchedDirectory> {
    let folder = Path::new(path).parent()?.to_str()?;
    Some(WatchedDirectory { path: folder.to_owned(), ..WatchedDirectory::default() })
}
