//! Who may talk to whom, and what else operators write: intentions, certificates, configuration entries, KV, ACLs.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::{Value, json};

use super::{Consul, consul};
use crate::{Failure, parts};

impl Consul {
    /// Writes an intention (`action`: `allow` or `deny`), replacing the one for the same pair.
    #[track_caller]
    pub fn intention(&self, source: &str, destination: &str, action: &str) {
        self.delete_intention(source, destination);
        self.add_intention(source, destination, action);
    }

    /// Writes an intention for a pair that has none.
    #[track_caller]
    pub fn add_intention(&self, source: &str, destination: &str, action: &str) {
        // The way of 1.8, which later releases still take.
        let body = json!({"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": action});
        let (status, answer) = self.send("POST", "/v1/connect/intentions", &body.to_string());
        assert_eq!(status, 200, "intention {source} -> {destination}: {answer}");
    }

    /// Removes all of them.
    #[track_caller]
    pub fn delete_intentions(&self) {
        for id in self.get("/v1/connect/intentions").as_array().into_iter().flatten() {
            self.delete(&format!("/v1/connect/intentions/{}", text(id, "ID")));
        }
    }

    /// Removes the intention for a pair, if there is one. Consul has one for all that differ in case.
    #[track_caller]
    pub fn delete_intention(&self, source: &str, destination: &str) {
        let all = self.get("/v1/connect/intentions");
        let is = |name: &Value, wanted: &str| {
            name.as_str().is_some_and(|name| name.to_lowercase() == wanted.to_lowercase())
        };
        let same = |i: &&Value| is(&i["SourceName"], source) && is(&i["DestinationName"], destination);
        if let Some(id) = all.as_array().and_then(|all| all.iter().find(same)).and_then(|i| i["ID"].as_str())
        {
            self.delete(&format!("/v1/connect/intentions/{id}"));
        }
    }

    /// Consul's own word on whether `source` may connect to `destination`.
    #[track_caller]
    pub fn allows(&self, source: &str, destination: &str) -> bool {
        let [source, destination] = [source, destination].map(in_url);
        let path = format!("/v1/connect/intentions/check?source={source}&destination={destination}");
        self.get(&path).get("Allowed") == Some(&Value::Bool(true))
    }

    /// Writes a configuration entry.
    #[track_caller]
    pub fn write_config(&self, entry: &Value) {
        self.put("/v1/config", entry);
    }

    /// Removes one.
    #[track_caller]
    pub fn delete_config(&self, kind: &str, name: &str) {
        self.delete(&format!("/v1/config/{kind}/{name}"));
    }

    /// The id of the root that signs now.
    #[track_caller]
    pub fn active_root(&self) -> String {
        text(&self.get("/v1/connect/ca/roots"), "ActiveRootID")
    }

    /// What every SPIFFE id begins with.
    #[track_caller]
    pub fn trust_domain(&self) -> String {
        text(&self.get("/v1/connect/ca/roots"), "TrustDomain")
    }

    /// Makes a new root: of a new key, since the same configuration again would change nothing.
    pub fn rotate_root(&self) -> Result<(), Failure> {
        let key = self.new_key()?;
        let config = json!({"PrivateKey": key, "LeafCertTTL": "72h", "RotationPeriod": "2160h"});
        self.put("/v1/connect/ca/configuration", &json!({"Provider": "consul", "Config": config}));
        Ok(())
    }

    /// A private key, PEM, made by Consul's own tool.
    fn new_key(&self) -> Result<String, Failure> {
        let doing = "consul tls ca create";
        let folder = tempfile::tempdir_in(&self.dir).map_err(Failure::because(doing))?;
        let mut command = consul(None)?;
        let output = command.args(["tls", "ca", "create"]).current_dir(folder.path()).output();
        let output = output.map_err(Failure::because(doing))?;
        fs::read_to_string(folder.path().join("consul-agent-ca-key.pem"))
            .map_err(Failure::because(format!("{doing}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Writes a key of the KV store.
    #[track_caller]
    pub fn kv_put(&self, key: &str, value: &str) {
        let (status, answer) = self.send("PUT", &format!("/v1/kv/{key}"), value);
        assert_eq!((status, answer.trim()), (200, "true"), "KV {key}");
    }

    /// Reads one; `None` = there is none.
    #[track_caller]
    pub fn kv_get(&self, key: &str) -> Option<String> {
        let (status, answer) = self.send("GET", &format!("/v1/kv/{key}?raw"), "");
        (status == 200).then_some(answer)
    }

    /// Removes one.
    #[track_caller]
    pub fn kv_delete(&self, key: &str) {
        self.delete(&format!("/v1/kv/{key}"));
    }

    /// A token that has exactly the rights of `rules` (HCL). ACLs must be on.
    #[track_caller]
    pub fn token(&self, name: &str, rules: &str) -> String {
        self.put("/v1/acl/policy", &json!({"Name": name, "Rules": rules}));
        let token = self.put("/v1/acl/token", &json!({"Description": name, "Policies": [{"Name": name}]}));
        text(&token, "SecretID")
    }

    /// Gives the token that [`Self::token`] made under this name other rights.
    #[track_caller]
    pub fn set_rights(&self, name: &str, rules: &str) {
        let id = text(&self.get(&format!("/v1/acl/policy/name/{name}")), "ID");
        self.put(&format!("/v1/acl/policy/{id}"), &json!({"Name": name, "Rules": rules}));
    }
}

/// Runs a script of `consul` commands against the server with this HTTP API.
pub fn run_script(url: &str, script: &Path) -> Result<(), Failure> {
    let doing = || script.display().to_string();
    // What it calls `consul` is the one that we run.
    let folder = parts::CONSUL.find()?.parent().map(Path::to_owned).unwrap_or_default();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&path)));
    let path = path.map_err(Failure::because(doing()))?;
    let output = Command::new(script).env("PATH", path).env("CONSUL_HTTP_ADDR", url).output();
    let output = output.map_err(Failure::because(doing()))?;
    let said = [output.stdout, output.stderr].concat();
    let failed = || Failure::new(format!("{}: {}", doing(), String::from_utf8_lossy(&said)));
    output.status.success().then_some(()).ok_or_else(failed)
}

/// Any name as part of a URL.
#[must_use]
pub fn in_url(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat()
}

/// A text of an answer; empty if it is not there.
pub(super) fn text(answer: &Value, field: &str) -> String {
    answer.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
