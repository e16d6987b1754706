//! Asks a running control plane over its API.

use std::io;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Timeout};

use super::Failure;
use super::output::{Output, printable};

/// Longest answer that is read: a document of 4 MiB, twice over as text and JSON.
const MAX_ANSWER: u64 = 32 << 20;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same of a write, which may be told to wait a minute for proxies.
const PATIENCE_OF_WRITES: Duration = Duration::from_secs(90);

/// Where the control plane is and how to print what it says.
#[derive(Debug, Args)]
pub(super) struct Api {
    /// Address of the control plane's API.
    #[arg(long, value_name = "URL", env = "REALMGATE_API", default_value = "http://127.0.0.1:18080")]
    #[arg(value_parser = base_url)]
    api: String,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The control plane said no.
    Answer {
        /// HTTP status.
        status: u16,
        /// The problem document.
        body: Value,
    },
    /// It could not be asked.
    Unanswered(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unanswered(message) => Self::failed(message),
            Refusal::Answer { status, body } => {
                let text = |field| body.get(field).and_then(Value::as_str).filter(|t: &&str| !t.is_empty());
                let message = text("message").or_else(|| text("error")).unwrap_or("no reason given");
                Self::failed(printable(&format!("the control plane answered {status}: {message}")))
            }
        }
    }
}

impl Api {
    /// GET.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Refusal> {
        let request = agent(PATIENCE).get(format!("{}{path}", self.api)).query_pairs(query.iter().copied());
        self.read(request.call())
    }

    /// PUT of a document, if wanted only over the version with this etag.
    pub(super) fn put(
        &self,
        path: &str,
        query: &[(&str, &str)],
        if_match: Option<&str>,
        body: &str,
    ) -> Result<Value, Refusal> {
        let request =
            agent(PATIENCE_OF_WRITES).put(format!("{}{path}", self.api)).query_pairs(query.iter().copied());
        let mut request = request.content_type("application/yaml");
        if let Some(etag) = if_match {
            // HTTP wants entity tags in quotes; people copy them without.
            request = request.header("If-Match", format!("\"{}\"", etag.trim_matches('"')));
        }
        self.read(request.send(body))
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, Refusal> {
        let mut answer = answer.map_err(|e| Refusal::Unanswered(self.unanswered(&e)))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|e| Refusal::Unanswered(self.unanswered(&e)))?;
        let body = serde_json::from_str(&text);
        match body {
            Ok(body) if (200..300).contains(&status) => Ok(body),
            Ok(body) => Err(Refusal::Answer { status, body }),
            Err(_) => Err(Refusal::Unanswered(format!(
                "{} answered {status} with something that is no JSON: is it a Realmgate API? (--api)",
                self.api
            ))),
        }
    }

    fn unanswered(&self, error: &ureq::Error) -> String {
        let api = &self.api;
        match error {
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => format!(
                "nothing listens at {api}: is `realmgate serve` running there? (--api, REALMGATE_API)"
            ),
            ureq::Error::HostNotFound => format!("no such host in {api}; check --api or REALMGATE_API"),
            ureq::Error::Timeout(Timeout::Connect) => {
                format!("no connection to {api} in time; check --api and the network between")
            }
            ureq::Error::Timeout(_) => format!("no answer from {api} in time"),
            other => format!("cannot ask {api}: {other}"),
        }
    }
}

fn agent(patience: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_global(Some(patience))
        // The API is an internal address; a proxy for the web neither reaches nor should see it.
        .proxy(None)
        .user_agent(concat!("realmgate/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn base_url(text: &str) -> Result<String, String> {
    let example = "write it like http://127.0.0.1:18080";
    let uri: Uri = text.parse().map_err(|e| format!("{e}; {example}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(format!("TLS is not available in this version; {example}")),
        _ => return Err(example.to_owned()),
    }
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(example.to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn the_address_is_a_plain_http_url() {
        assert_eq!(base_url("http://[::1]:18080/").unwrap(), "http://[::1]:18080");
        assert!(base_url("https://x").unwrap_err().contains("TLS"));
        for wrong in ["", "127.0.0.1:18080", "localhost", "ftp://x", "http://x/?a=b"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
