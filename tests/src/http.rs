//! A blocking HTTP client for admin interfaces and the management API.

use std::net::SocketAddr;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;

use crate::Failure;

/// Longer than the longest wait we ask a server for.
const TIMEOUT: Duration = Duration::from_mins(1);

/// One server's paths.
#[derive(Clone, Debug)]
pub struct Http {
    agent: Agent,
    server: SocketAddr,
    /// Sent with every request: its name and value.
    header: Option<(&'static str, String)>,
}

/// Status code and body of an answer, whatever the status.
pub type Answer = (u16, String);

impl Http {
    /// A client of `server`.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // A kept connection to a server that was killed would fail the next request.
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Self { agent: config.into(), server, header: None }
    }

    /// The same with a header on every request, such as a token.
    #[must_use]
    pub fn with_header(self, name: &'static str, value: &str) -> Self {
        Self { header: Some((name, value.to_owned())), ..self }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send("GET", path, "", "")
    }

    /// POST without a body.
    pub fn post(&self, path: &str) -> Result<Answer, Failure> {
        self.send("POST", path, "", "")
    }

    /// Any method with a body.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<Answer, Failure> {
        let doing = format!("{method} http://{}{path}", self.server);
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.server));
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(body.to_owned()).map_err(Failure::because(&doing))?;
        let mut response = self.agent.run(request).map_err(Failure::because(&doing))?;
        let body = response.body_mut().with_config().limit(256 << 20).read_to_string();
        Ok((response.status().as_u16(), body.map_err(Failure::because(&doing))?))
    }
}
