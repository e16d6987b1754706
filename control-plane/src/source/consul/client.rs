//! Questions to Consul's HTTP API: one client, bounded connections, time and size.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::credentials::{self, Followed};
use super::error::ConsulError;
use super::index::Index;
use super::metrics::Requests;
use super::rights;
use super::start::ConsulConfig;

/// Most answers of a moment that are asked for together.
const AT_ONCE: usize = 16;
/// Bound on a question that does not block.
const STEP: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// The largest answer: the checks of 100,000 instances.
pub(super) const MAX_ANSWER: usize = 64 << 20;
/// As much of a refusal as a log line bears.
const MAX_WORDS: usize = 200;

/// Tells that something is left out of a list.
const FILTERED: &str = "x-consul-results-filtered-by-acls";

type Connections = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One Consul agent.
#[derive(Debug)]
pub(in crate::source) struct Client {
    /// `http://127.0.0.1:8500`, without a slash at the end.
    address: String,
    token: Followed<HeaderValue>,
    authorities: Followed<ClientConfig>,
    connections: Mutex<Option<(Option<Arc<ClientConfig>>, Connections)>>,
    at_once: Semaphore,
    pub(super) requests: Requests,
}

/// What Consul answered.
#[derive(Debug)]
pub(in crate::source) struct Answer {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// False only of a key of the KV store that is not there, and of rights where ACLs are off.
    pub(in crate::source) found: bool,
    /// What it took after Consul began to answer.
    pub(super) took: Duration,
}

impl Answer {
    pub(in crate::source) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ConsulError> {
        serde_json::from_slice(&self.body)
            .map_err(|e| ConsulError::Malformed { path: self.path.clone(), problem: e.to_string() })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn index(&self) -> Option<u64> {
        self.header("x-consul-index")?.parse().ok()
    }
}

impl Client {
    pub(in crate::source) fn new(config: &ConsulConfig, requests: Requests) -> Self {
        Self {
            address: config.address.trim_end_matches('/').to_owned(),
            token: Followed::new(config.token_file.clone(), credentials::token),
            authorities: Followed::new(config.ca_file.clone(), credentials::authorities),
            connections: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            requests,
        }
    }

    /// An answer of this moment.
    pub(in crate::source) async fn get(&self, path: &str) -> Result<Answer, ConsulError> {
        // Never closed.
        let _permit = self.at_once.acquire().await;
        self.counted(self.ask(Method::GET, path.to_owned(), Bytes::new(), STEP).await)
    }

    /// A change. Without an answer it may have been made or not.
    pub(in crate::source) async fn put(&self, path: &str, body: Bytes) -> Result<Answer, ConsulError> {
        let _permit = self.at_once.acquire().await;
        self.counted(self.ask(Method::PUT, path.to_owned(), body, STEP).await)
    }

    /// A question that is too long for a path.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Answer, ConsulError> {
        let _permit = self.at_once.acquire().await;
        self.counted(self.ask(Method::POST, path.to_owned(), body, STEP).await)
    }

    /// An answer as soon as it is another than that of `index`, at the latest after `wait`.
    pub(super) async fn wait(&self, path: &str, index: Index, wait: Duration) -> Result<Answer, ConsulError> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let question = format!("{path}{sign}index={}&wait={}s", index.get(), wait.as_secs());
        // Consul adds up to a sixteenth, lest all come back at once.
        self.counted(self.ask(Method::GET, question, Bytes::new(), wait + wait / 16 + STEP).await)
    }

    fn counted(&self, result: Result<Answer, ConsulError>) -> Result<Answer, ConsulError> {
        self.requests.asked(result.as_ref().err());
        result
    }

    async fn ask(
        &self,
        method: Method,
        path: String,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, ConsulError> {
        let answer = timeout(limit, self.exchange(method, &path, body)).await;
        answer.unwrap_or_else(|_elapsed| Err(ConsulError::Silent { path, limit }))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ConsulError> {
        let malformed = |problem: String| ConsulError::Malformed { path: path.to_owned(), problem };
        let uri: Uri = format!("{}{path}", self.address)
            .parse()
            .map_err(|e: http::uri::InvalidUri| malformed(e.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = self.token.get()? {
            request = request.header("x-consul-token", &*token);
        }
        let request = request.body(Full::new(body)).map_err(|e| malformed(e.to_string()))?;
        let response = self.connections()?.request(request).await.map_err(|e| unreachable(&e))?;
        let began = Instant::now();
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| ConsulError::Unreachable(e.to_string()))?;
            let data = frame.into_data().unwrap_or_default();
            if body.len() + data.len() > MAX_ANSWER {
                return Err(ConsulError::Oversized { path: path.to_owned(), limit: MAX_ANSWER });
            }
            body.extend_from_slice(&data);
        }
        let text = || String::from_utf8_lossy(&body).trim().chars().take(MAX_WORDS).collect::<String>();
        // A key that is not there has an index to wait on, as others have.
        let missing = head.status == StatusCode::NOT_FOUND && path.starts_with("/v1/kv/")
            || path.starts_with(rights::PATH) && text() == "ACL support disabled";
        match head.status {
            // Since 1.11. What is left is not the truth.
            _ if head.headers.get(FILTERED).is_some_and(|filtered| filtered == "true") => {
                Err(ConsulError::Denied {
                    path: path.to_owned(),
                    text: "the token may not read all of it".to_owned(),
                })
            }
            status if status == StatusCode::OK || missing => Ok(Answer {
                path: path.to_owned(),
                headers: head.headers,
                body: body.freeze(),
                found: !missing,
                took: began.elapsed(),
            }),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                Err(ConsulError::Denied { path: path.to_owned(), text: text() })
            }
            // Both arrive as failures of the server where another one refused.
            _ if text().contains("Permission denied") || text().contains("ACL not found") => {
                Err(ConsulError::Denied { path: path.to_owned(), text: text() })
            }
            _ if text().contains("boolean expression") => {
                Err(ConsulError::Filter { path: path.to_owned(), text: text() })
            }
            status => {
                Err(ConsulError::Refused { path: path.to_owned(), status: status.as_u16(), text: text() })
            }
        }
    }

    /// The connections, new ones if the authorities were replaced.
    fn connections(&self) -> Result<Connections, ConsulError> {
        let authorities = self.authorities.get()?;
        let mut current = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, connections)) = &*current
            && known.as_ref().map(Arc::as_ptr) == authorities.as_ref().map(Arc::as_ptr)
        {
            return Ok(connections.clone());
        }
        let new = connections(authorities.as_deref())?;
        *current = Some((authorities, new.clone()));
        Ok(new)
    }
}

/// Without authorities nobody is believed; settings refuse `https` then.
fn connections(authorities: Option<&ClientConfig>) -> Result<Connections, ConsulError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    // A cut link is found out by the system where an answer may take minutes.
    tcp.set_keepalive(Some(Duration::from_secs(15)));
    let nobody =
        || credentials::believing(RootCertStore::empty()).map_err(|e| ConsulError::Tls(e.to_string()));
    let tls = authorities.cloned().map_or_else(nobody, Ok)?;
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(AT_ONCE)
        .build(https))
}

/// The innermost cause says most: "connection refused", "invalid peer certificate".
fn unreachable(error: &hyper_util::client::legacy::Error) -> ConsulError {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return ConsulError::Tls(tls.to_string());
        }
        // What an I/O error holds is not its source, which is the source of what it holds.
        let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match held.map(|held| held as &(dyn std::error::Error + 'static)).or_else(|| cause.source()) {
            Some(inner) => cause = inner,
            None => return ConsulError::Unreachable(cause.to_string()),
        }
    }
}
