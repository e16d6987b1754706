//! The parts of a bootstrap by which an Envoy and its control plane know each other: TLS and a token.
//!
//! Secrets stay in their files. Envoy reads a file again when it changes only if it learned of it by SDS, and SDS
//! from files needs a file of its own for each secret: `--sds-dir` says where those are written.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io, path};

use super::{Failure, output};
use crate::model::Endpoint;
use crate::settings::cleartext::crosses_a_network;
use crate::source::saved;

#[derive(Debug, clap::Args)]
pub(super) struct Credentials {
    /// File with the token it shows, and nothing else, not even a line's end; Envoy reads it, not this command.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the authorities of the control plane's certificate; without, there is no TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of the certificate it shows, with a SPIFFE id for its service.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name, or address, in the control plane's certificate [default: the host of --control-plane]
    #[arg(long, value_name = "NAME", requires = "tls_ca", value_parser = super::bootstrap::name)]
    tls_server_name: Option<String>,
    /// Directory to write a few lines into that make Envoy read certificates and token again when they are
    /// replaced (moved over, not written over); Envoy finds it under the same path [default: none: they are
    /// read at start]
    #[arg(long, value_name = "DIR")]
    sds_dir: Option<PathBuf>,
}

/// What goes into the bootstrap, each text with its indentation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Below `static_resources`.
    pub(super) secrets: String,
    /// Among the control plane's cluster's HTTP options.
    pub(super) http_filters: String,
    /// Of the control plane's cluster.
    pub(super) transport_socket: String,
}

const TOKEN: &str = "control-plane-token";
const IDENTITY: &str = "control-plane-identity";
const AUTHORITIES: &str = "control-plane-authorities";

impl Credentials {
    /// The parts for an Envoy that connects to `control_plane`. Writes the files of `--sds-dir`.
    pub(super) fn parts(&self, control_plane: &Endpoint) -> Result<Parts, Failure> {
        let mut secrets =
            Secrets { sds_dir: self.sds_dir.as_deref().map(absolute).transpose()?, inline: String::new() };
        let mut parts = Parts::default();
        if let Some(file) = &self.token_file {
            let host = control_plane.host();
            if self.tls_ca.is_none() && crosses_a_network(host) {
                output::remark(&format!(
                    "the token goes to {host} in the clear, for everybody on the way to read: give --tls-ca, and the control \
                     plane a certificate (xds.tls.cert_file)"
                ));
            }
            let file = absolute(file)?;
            check_token(&file)?;
            let secret = format!("generic_secret:\n  secret:\n    filename: {}\n", quoted(&file)?);
            let config = secrets.add(TOKEN, &file, secret, false)?;
            parts.http_filters = indented(8, &format!(include_str!("token.yaml.in"), secret = config));
        }
        if let Some(authorities) = &self.tls_ca {
            let authorities = absolute(authorities)?;
            let host = self.tls_server_name.as_deref().unwrap_or(control_plane.host());
            let is_address = host.parse::<std::net::IpAddr>().is_ok();
            let secret = format!(
                "validation_context:\n  trusted_ca:\n    filename: {}\n  match_typed_subject_alt_names:\n  \
                 - san_type: {}\n    matcher:\n      exact: \"{host}\"\n",
                quoted(&authorities)?,
                if is_address { "IP_ADDRESS" } else { "DNS" },
            );
            let mut common = format!(
                "validation_context_sds_secret_config: {}\n",
                secrets.add(AUTHORITIES, &authorities, secret, true)?
            );
            if let Some((cert, key)) = self.tls_cert.as_ref().zip(self.tls_key.as_ref()) {
                let (cert, key) = (absolute(cert)?, absolute(key)?);
                let secret = format!(
                    "tls_certificate:\n  certificate_chain:\n    filename: {}\n  private_key:\n    filename: {}\n",
                    quoted(&cert)?,
                    quoted(&key)?
                );
                let config = secrets.add(IDENTITY, &cert, secret, true)?;
                let _ = writeln!(common, "tls_certificate_sds_secret_configs:\n- {config}");
            }
            let sni = if is_address { String::new() } else { format!("    sni: \"{host}\"\n") };
            let tls = format!(include_str!("tls.yaml.in"), sni = sni, common = indented(6, &common));
            parts.transport_socket = indented(4, &tls);
        }
        if !secrets.inline.is_empty() {
            parts.secrets = format!("  secrets:\n{}", secrets.inline);
        }
        Ok(parts)
    }
}

/// Puts secrets where Envoy finds them.
struct Secrets {
    sds_dir: Option<PathBuf>,
    inline: String,
}

impl Secrets {
    /// Adds a secret (the text below its name) that stands in `file`, and returns how it is referred to.
    /// `watches` says that a secret of this kind watches its folder by itself.
    fn add(&mut self, name: &str, file: &Path, secret: String, watches: bool) -> Result<String, Failure> {
        let Some(dir) = &self.sds_dir else {
            let _ = write!(self.inline, "  - name: {name}\n{}", indented(4, &secret));
            return Ok(format!("{{name: {name}}}"));
        };
        let folder = quoted(file.parent().unwrap_or(Path::new("/")))?;
        let (inner, outer) = if watches {
            (format!("  watched_directory: {{path: {folder}}}\n"), String::new())
        } else {
            (String::new(), format!(", watched_directory: {{path: {folder}}}"))
        };
        let text = format!(
            "# A secret of an Envoy whose bootstrap was printed by `realmgate envoy-bootstrap`.\nresources:\n\
             - \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: {name}\n{}",
            indented(2, &(secret + &inner))
        );
        let file = format!("{name}.yaml");
        let path = dir.join(&file);
        // It names secrets and holds none, and Envoy may be another user.
        fs::create_dir_all(dir)
            .and_then(|()| saved::replace_as(0o644, dir, &file, text.as_bytes()))
            .map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))?;
        let path = quoted(&path)?;
        Ok(format!(
            "{{name: {name}, sds_config: {{resource_api_version: V3, path_config_source: {{path: {path}{outer}}}}}}}"
        ))
    }
}

/// Envoy's working directory is not ours.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path::absolute(path).map_err(|e| Failure::usage(format!("`{}`: {e}", path.display())))
}

/// A path in double quotes. JSON's escapes are YAML's.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().and_then(|text| serde_json::to_string(text).ok());
    text.ok_or_else(|| Failure::usage(format!("`{}` is not UTF-8", path.display())))
}

/// Envoy 1.37 and 1.38 open no stream at all, and do not say why, if a line ends in the file. It may well be on
/// another machine only.
fn check_token(file: &Path) -> Result<(), Failure> {
    match fs::read(file) {
        Ok(token) if token.iter().any(u8::is_ascii_whitespace) || token.is_empty() => {
            Err(Failure::invalid(format!(
                "--token-file {}: it has to hold one token and nothing else, not even a line's end",
                file.display()
            )))
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound && e.kind() != io::ErrorKind::PermissionDenied => {
            Err(Failure::invalid(format!("--token-file {}: {e}", file.display())))
        }
        _ => Ok(()),
    }
}

fn indented(by: usize, text: &str) -> String {
    let mut indented = String::with_capacity(text.len());
    for line in text.lines() {
        let _ = writeln!(indented, "{:by$}{line}", "");
    }
    indented
}
