//! Mutual TLS between proxies: the secrets, and the contexts that name them.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext, secret,
    tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::BoolValue;
use prost::{Message, Name};

use super::envoy;
use super::priorities::target;
use crate::mesh::failover::Locality;
use crate::mesh::identity::wanted_leaves;
use crate::mesh::{Identities, Mesh};
use crate::model::{Service, ServiceTls};
use crate::xds::{Resource, Scope};

/// The secret of the roots, the same for every proxy.
pub(super) const ROOTS: &str = "roots";

/// Most bytes of the name that a client asks for, in Envoy as in TLS.
const LONGEST_SNI: usize = 255;

/// The secret of a service's certificate.
fn leaf_name(service: &str) -> String {
    format!("leaf/{service}")
}

/// How a cluster's endpoints are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// In the clear.
    Plain,
    /// By mutual TLS.
    Mutual {
        /// With an endpoint that is none of the targets. Clusters and endpoints change one after the other, so there are such
        /// endpoints for a moment, or for long where a proxy refuses the cluster.
        service: Mutual,
        /// By who an endpoint is: what stands in its metadata, in order.
        targets: BTreeMap<String, Mutual>,
    },
    /// By mutual TLS for which there is no certificate: not at all. In the clear would be worse, and a cluster that names a
    /// secret which never comes would hold up all others.
    Impossible,
}

/// One side of mutual TLS, as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutual {
    /// The service that we are.
    own: String,
    /// The SPIFFE ids of which the server has to be one.
    servers: Vec<String>,
    /// The name that we ask for, which says whom we want to whoever passes connections on.
    sni: String,
}

/// What an edge of some scope is to the services of the mesh.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    identities: &'a Identities,
    own: &'a str,
    datacenter: &'a str,
}

impl<'a> Client<'a> {
    /// An edge is the service that it claims and has proved to be.
    pub(super) fn of(mesh: &'a Mesh, scope: &'a Scope) -> Self {
        let own = if scope.service.is_empty() { &mesh.edge.service } else { &scope.service };
        Self { identities: &mesh.identities, own, datacenter: &scope.datacenter }
    }

    /// The datacenter that it says it is in; empty = it says none.
    pub(super) const fn datacenter(&self) -> &'a str {
        self.datacenter
    }

    /// Whether the policy wants a certificate of it that an authority has not given yet in this run. Then it is sent nothing: it
    /// may have one from an earlier run, and what needs it.
    pub(super) fn waits(&self, mesh: &Mesh) -> bool {
        self.identities.is_known()
            && self.identities.leaf(self.own).is_none()
            && wanted_leaves(&mesh.policy, &mesh.edge.service).contains(self.own)
    }

    /// How this client speaks to a service here, and in these places, each of which proves to be just that one: a service,
    /// and a datacenter, cannot stand in for another. Places with nobody count too, so that the first who comes there
    /// changes endpoints and no cluster.
    pub(super) fn towards(&self, service: &Service, places: &[Locality]) -> Security {
        if service.tls == ServiceTls::None {
            return Security::Plain;
        }
        let target =
            |place: &Locality| Some((target(place), self.mutual(&place.datacenter, &place.service)?));
        let of_service = self.mutual("", service.mesh_name());
        match of_service.filter(|_| self.identities.leaf(self.own).is_some()) {
            // An endpoint of a place that cannot be in a certificate has to prove to be the service itself, which it is not.
            Some(service) => {
                Security::Mutual { service, targets: places.iter().filter_map(target).collect() }
            }
            None => Security::Impossible,
        }
    }

    fn mutual(&self, datacenter: &str, service: &str) -> Option<Mutual> {
        let Identities { trust_domain, datacenter: local, .. } = self.identities;
        let datacenter = if datacenter.is_empty() { local } else { datacenter };
        let sni = format!("{service}.default.{datacenter}.internal.{trust_domain}");
        Some(Mutual {
            own: self.own.to_owned(),
            servers: vec![self.identities.uri(datacenter, service)?],
            // The name decides nothing here, and Envoy refuses a cluster with a longer one.
            sni: if sni.len() > LONGEST_SNI { String::new() } else { sni },
        })
    }

    /// What it needs for that.
    pub(super) fn secrets(&self) -> Vec<Resource> {
        secrets(self.identities, self.own)
    }
}

/// The secrets of a proxy that is this service; none while it has no certificate.
pub(super) fn secrets(identities: &Identities, service: &str) -> Vec<Resource> {
    let Some(leaf) = identities.leaf(service) else { return Vec::new() };
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(leaf.chain.clone())),
        private_key: Some(inline(leaf.key.clone())),
        ..TlsCertificate::default()
    };
    let roots = identities.roots.iter().map(|root| format!("{}\n", root.trim_end()));
    let roots =
        CertificateValidationContext { trusted_ca: Some(inline(roots.collect())), ..Default::default() };
    let all = [
        (leaf_name(service), secret::Type::TlsCertificate(certificate)),
        (ROOTS.to_owned(), secret::Type::ValidationContext(roots)),
    ];
    let resource =
        |(name, content): (String, _)| Resource::new(name.clone(), &Secret { name, r#type: Some(content) });
    all.into_iter().map(resource).collect()
}

impl Mutual {
    /// The client's side of the connection.
    pub(super) fn transport_socket(&self) -> TransportSocket {
        let servers = self.servers.iter().map(|uri| san(MatchPattern::Exact(uri.clone())));
        transport_socket(&UpstreamTlsContext {
            common_tls_context: Some(common(Some(&self.own), servers.collect())),
            sni: self.sni.clone(),
            // Servers of ours resume no session, so that every connection shows who it is.
            max_session_keys: Some(envoy::uint32(0)),
            ..UpstreamTlsContext::default()
        })
    }

    /// The client's side of a check that only connects to this server or any of these. It shows no certificate: a sidecar
    /// would keep a peer that it lets in and that leaves without a byte, and closes one that shows none. With TLS 1.3 the
    /// handshake is through for the client by then; with TLS 1.2 it would never be.
    pub(super) fn nameless_socket(&self, targets: &BTreeMap<String, Self>) -> TransportSocket {
        let all: BTreeSet<_> =
            std::iter::once(self).chain(targets.values()).flat_map(|one| &one.servers).collect();
        let servers = all.into_iter().map(|uri| san(MatchPattern::Exact(uri.clone())));
        transport_socket(&UpstreamTlsContext {
            common_tls_context: Some(common(None, servers.collect())),
            sni: self.sni.clone(),
            max_session_keys: Some(envoy::uint32(0)),
            ..UpstreamTlsContext::default()
        })
    }
}

/// The client's side of a connection that never stands: no certificate has this hash, and no secret is waited for. An edge
/// whose own certificate comes gives the new endpoints to the old cluster too, while the new one warms.
pub(super) fn with_nobody() -> TransportSocket {
    let validation = CertificateValidationContext {
        verify_certificate_hash: vec!["0".repeat(64)],
        ..CertificateValidationContext::default()
    };
    transport_socket(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    })
}

/// The server's side of a connection to `service`: clients have to be of the trust domain, whichever of its services.
pub(super) fn server(identities: &Identities, service: &str) -> TransportSocket {
    let of_domain = san(MatchPattern::Prefix(format!("spiffe://{}/", identities.trust_domain)));
    transport_socket(&DownstreamTlsContext {
        common_tls_context: Some(common(Some(service), vec![of_domain])),
        require_client_certificate: Some(BoolValue { value: true }),
        // Whoever resumes a session is not asked for a certificate again, which may have expired, or its root gone.
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..DownstreamTlsContext::default()
    })
}

/// Shows the certificate of `own`, or none.
fn common(own: Option<&str>, peers: Vec<SubjectAltNameMatcher>) -> CommonTlsContext {
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: peers,
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(sds(ROOTS.to_owned())),
        ..CombinedCertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: own.into_iter().map(|own| sds(leaf_name(own))).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        ..CommonTlsContext::default()
    }
}

fn sds(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(envoy::ads()) }
}

fn san(pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false }),
        ..SubjectAltNameMatcher::default()
    }
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..DataSource::default() }
}

fn transport_socket<M: Message + Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(envoy::any(context))),
    }
}
