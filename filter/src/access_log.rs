//! The filter's part of a connection's line in the access log: what Envoy cannot know.
//!
//! It is one property, written once, when the connection ends: each further one would be another call to the host.
//! Envoy's text format puts it into the line as it is, so it holds JSON already, with a comma in front:
//! `,"status":"ok","close_reason":"client",...`. Where the filter never ran there is no property, and the line is
//! still JSON.

use std::rc::Rc;

use realmgate_wire::{ServerId, TraceContext};

use crate::host::UpstreamFailure;
use crate::session::Refusal;
use crate::translate::{Fault, Messages};

/// The property.
pub const PROPERTY: &str = "realmgate.log";

/// Longest error message in bytes: what Envoy says of a failure may quote a peer's certificate.
const MAX_MESSAGE: usize = 300;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The filter turned it away before it had a cluster.
    Refused(Refusal),
    /// The client left before its header was whole. Not a refusal: nobody was turned away.
    ClientGone,
    /// The filter closed the session.
    Fault(Fault),
    /// The client was the first to end the session.
    Client,
    /// The game server was.
    Server,
    /// The proxy could not bring the session to a game server.
    Failed(UpstreamFailure),
    /// The proxy ended the session for reasons of its own: nothing came for too long, or it ends itself.
    Proxy,
}

impl Ending {
    /// Short stable name.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::ClientGone => "client_gone",
            Self::Fault(fault) => fault.label(),
            Self::Client => "client",
            Self::Server => "server",
            Self::Failed(failure) => failure.label(),
            Self::Proxy => "proxy",
        }
    }

    /// `ok`, `gone`, `refused` or `failed`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::ClientGone => "gone",
            Self::Fault(_) | Self::Failed(_) => "failed",
            Self::Client | Self::Server | Self::Proxy => "ok",
        }
    }

    /// For people; empty where all went well.
    fn message(&self) -> &str {
        match self {
            Self::Refused(Refusal::NoRoute) => "no route takes this server type, world and instance",
            Self::Refused(Refusal::MessageTooLarge) | Self::Fault(Fault::MessageTooLarge) => {
                "the client announced a message above max_message_bytes"
            }
            Self::Refused(Refusal::HeaderTimeout) => "the first 8 bytes did not come in time",
            Self::Refused(Refusal::ConnectionsPerIp) => "the client's address has connections_per_ip open",
            Self::Refused(Refusal::NewConnectionsPerIp) => {
                "the client's address had its new_connections_per_ip_per_second"
            }
            Self::Refused(Refusal::HostError) | Self::Fault(Fault::HostError) => {
                "Envoy refused a call of the filter; its log says which"
            }
            Self::ClientGone => "the client left before its first 8 bytes were whole",
            Self::Fault(Fault::ReplyTooShort) => "the game server announced a negative or too short length",
            Self::Fault(Fault::ReplyTooLarge) => "the game server announced a body above 65535 bytes",
            Self::Failed(failure) => bounded(failure.message()),
            Self::Client | Self::Server | Self::Proxy => "",
        }
    }
}

/// The front of a text, cut between characters.
fn bounded(text: &str) -> &str {
    let cut = (0..=MAX_MESSAGE).rev().find(|&at| text.is_char_boundary(at));
    if text.len() <= MAX_MESSAGE { text } else { text.get(..cut.unwrap_or(0)).unwrap_or_default() }
}

/// A session's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unlike any other session's, of any worker or pod.
    pub session_id: i64,
    /// Its trace.
    pub trace: TraceContext,
}

/// What is known of a connection at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The client's address as it may be shown; `None` where the proxy shows it.
    pub client: Option<Rc<str>>,
    /// Of the first header.
    pub server_id: Option<ServerId>,
    /// Name of the route that took it.
    pub route: Option<Rc<str>>,
    /// Once it was routed.
    pub identity: Option<Identity>,
    /// Where the framing is not the client's.
    pub messages: Option<Messages>,
    /// How it ended.
    pub ending: Ending,
}

impl Record {
    /// The property's text.
    ///
    /// Not by serde: with its formatters this was half of what a connection costs in the filter.
    #[must_use]
    pub fn fields(&self) -> String {
        let id = self.server_id;
        let trace = self.identity.map(|identity| identity.trace);
        let mut fields = Fields(Vec::with_capacity(ROOM));
        if let Some(client) = &self.client {
            fields.text(r#","client.address":"#, client);
        }
        fields.text(r#","status":"#, self.ending.status());
        fields.text(r#","close_reason":"#, self.ending.label());
        fields.text(r#","error.message":"#, self.ending.message());
        fields.number(r#","server.type":"#, id.map(|id| id.server_type().into()));
        fields.number(r#","world.id":"#, id.map(|id| id.world().into()));
        fields.number(r#","instance.id":"#, id.map(|id| id.instance().into()));
        fields.text(r#","route":"#, self.route.as_deref().unwrap_or_default());
        fields.id(r#","session.id":"#, self.identity.map(|identity| identity.session_id));
        fields.hex(r#","trace_id":"#, trace.map(|trace| trace.trace_id));
        fields.hex(r#","span_id":"#, trace.map(|trace| trace.span_id));
        fields.number(r#","messages.to_server":"#, self.messages.map(|messages| messages.to_server));
        fields.number(r#","messages.to_client":"#, self.messages.map(|messages| messages.to_client));
        // Made of texts and ASCII: it is one.
        String::from_utf8(fields.0).unwrap_or_default()
    }
}

/// What fits without growing, but for long names and messages.
const ROOM: usize = 512;

/// The fields so far, as the bytes of a text. Numbers that are not known are null, texts are empty.
struct Fields(Vec<u8>);

impl Fields {
    fn text(&mut self, name: &str, text: &str) {
        self.add(name);
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.add("\"");
            self.add(text);
            self.add("\"");
        } else {
            // A text can always be written.
            self.add(&serde_json::to_string(text).unwrap_or_default());
        }
    }

    fn number(&mut self, name: &str, number: Option<u64>) {
        self.add(name);
        let mut digits = itoa::Buffer::new();
        self.add(number.map_or("null", |number| digits.format(number)));
    }

    /// A text: it does not fit the numbers of many a JSON reader.
    fn id(&mut self, name: &str, id: Option<i64>) {
        let mut digits = itoa::Buffer::new();
        self.text(name, id.map_or("", |id| digits.format(id)));
    }

    fn hex<const N: usize>(&mut self, name: &str, bytes: Option<[u8; N]>) {
        self.add(name);
        self.add("\"");
        if let Some(bytes) = bytes {
            self.0.extend_from_slice(bytes.map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).as_flattened());
        }
        self.add("\"");
    }

    fn add(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// The hexadecimal digit of a number below 16.
const fn digit(number: u8) -> u8 {
    number + if number < 10 { b'0' } else { b'a' - 10 }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(record: &Record) -> Value {
        let fields = record.fields();
        serde_json::from_str(&format!("{{{}}}", fields.strip_prefix(',').unwrap())).unwrap()
    }

    fn empty(ending: Ending) -> Record {
        Record { client: None, server_id: None, route: None, identity: None, messages: None, ending }
    }

    #[test]
    fn a_record_is_the_rest_of_a_json_object() {
        let trace = TraceContext::of_session(7, 0xabc, 0xdef);
        let record = Record {
            client: Some("203.0.113.0/24".into()),
            server_id: Some(ServerId::new(200, 32_767, 255, true)),
            route: Some(Rc::from("a \"route\"\n")),
            identity: Some(Identity { session_id: i64::MAX, trace }),
            messages: Some(Messages { to_server: u64::MAX, to_client: 0 }),
            ending: Ending::Client,
        };
        let expected = json!({
            "client.address": "203.0.113.0/24", "status": "ok", "close_reason": "client", "error.message": "",
            "server.type": 200, "world.id": 32767, "instance.id": 255, "route": "a \"route\"\n",
            "session.id": "9223372036854775807",
            "trace_id": "00000000000000070000000000000abc", "span_id": "0000000000000def",
            "messages.to_server": u64::MAX, "messages.to_client": 0,
        });
        assert_eq!(read(&record), expected);
        let bare = read(&empty(Ending::ClientGone));
        // Where the proxy shows the client's address, the filter does not.
        assert_eq!(bare.as_object().unwrap().len() + 1, expected.as_object().unwrap().len());
        for (field, nothing) in
            [("world.id", Value::Null), ("trace_id", json!("")), ("session.id", json!(""))]
        {
            assert_eq!(bare[field], nothing, "{field}");
        }
    }

    #[test]
    fn what_peers_say_is_escaped_and_bounded() {
        let said = format!("verify cert failed: \",\"status\":\"ok\\\u{1}{}", "ä".repeat(MAX_MESSAGE));
        let failure = UpstreamFailure { flags: UpstreamFailure::CONNECT, reason: said.clone() };
        let fields = read(&empty(Ending::Failed(failure)));
        let message = fields["error.message"].as_str().unwrap();
        assert!(said.starts_with(message) && message.len() + 1 >= MAX_MESSAGE, "{message}");
        assert_eq!(fields["status"], "failed");
        assert_eq!(fields["close_reason"], "connect_failed");
    }
}
