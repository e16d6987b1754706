//! TLS between players and a listener.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// TLS of a listener: PEM files on the machine of each Envoy. Files that are moved into place are taken for new
/// connections; those that are open go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlayerTls {
    /// Absolute path of the certificate, followed by those between it and its authority.
    pub cert_file: String,
    /// Absolute path of its key, in the same folder: both are exchanged together.
    pub key_file: String,
    /// Absolute path of the authorities of client certificates; with it, players have to show one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<String>,
    /// Least version of TLS.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

impl PlayerTls {
    pub(super) fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        let files = [("cert_file", Some(&self.cert_file)), ("key_file", Some(&self.key_file))];
        for (field, path) in files.into_iter().chain([("client_ca_file", self.client_ca_file.as_ref())]) {
            // Envoy's working directory is not ours.
            if path.is_some_and(|path| !Path::new(path).is_absolute()) {
                found.push(Problem::at(format!("{at}.{field}"), "must be an absolute path"));
            }
        }
        if Path::new(&self.cert_file).parent() != Path::new(&self.key_file).parent() {
            let why = "must be in the folder of `cert_file`: Envoy takes both when something is moved there";
            found.push(Problem::at(format!("{at}.key_file"), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{diff, parse};

    fn listener(tls: &str) -> String {
        format!("listeners: [{{name: a, bind: 127.0.0.1:1, tls: {tls}}}]")
    }

    #[test]
    fn files_are_absolute_and_certificate_and_key_in_one_folder() {
        for (tls, place) in [
            ("{cert_file: tls.crt, key_file: /tls/tls.key}", "listeners[0].tls.cert_file"),
            ("{cert_file: /tls/tls.crt, key_file: /other/tls.key}", "listeners[0].tls.key_file"),
            ("{cert_file: /tls/a, key_file: /tls/b, client_ca_file: ca}", "listeners[0].tls.client_ca_file"),
            ("{cert_file: /tls/a, key_file: /tls/b, min_version: '1.1'}", "min_version"),
            ("{cert_file: /tls/a}", "key_file"),
        ] {
            let problems = parse(&listener(tls)).unwrap_err();
            assert!(format!("{problems:?}").contains(place), "{tls}: {problems:?}");
        }
    }

    #[test]
    fn other_files_spare_live_connections() {
        let of = |tls: &str| parse(&listener(tls)).unwrap();
        let old = of("{cert_file: /tls/a, key_file: /tls/b}");
        assert_eq!(diff(&old, &of("{cert_file: /tls/c, key_file: /tls/d}")), ["~ listener a: tls"]);
        for replaced in [
            "{cert_file: /tls/a, key_file: /tls/b, min_version: '1.3'}",
            "{cert_file: /tls/a, key_file: /tls/b, client_ca_file: /tls/ca}",
        ] {
            assert!(diff(&old, &of(replaced))[0].ends_with("drain)"), "{replaced}");
        }
    }
}
