//! [`Host`] by calls of the ABI.

use std::net::Ipv4Addr;

use super::abi::{self, Buffer, Level, Status};
use super::{counts, refused, shared, vm};
use crate::access_log::{PROPERTY, Record};
use crate::host::{Host, HostError, Process, Stream, UpstreamFailure, Way};
use crate::route::sticky_point;
use crate::telemetry::Metric;

/// The Envoy around one plugin configuration.
pub(super) struct Envoy {
    /// State of `SplitMix64`.
    random: u64,
    /// Scratch space for [`Self::set_filter_state`].
    message: Vec<u8>,
    /// Whether this Envoy was found not to know [`HASH_KEY`].
    lacks_key: bool,
    /// Whether anybody reads the access log.
    pub(super) is_logged: bool,
}

/// Where the load balancer finds the hash key. `envoy.string` would be taken, too, but is not hashable: the
/// balancer would choose at random.
const HASH_KEY: &str = "envoy.hashable_string";

/// Where it finds it before Envoy 1.38, which knows one hashable object only that a filter can set: an
/// address. Only `ORIGINAL_DST` clusters take it for more than a key.
const OLD_HASH_KEY: &str = "envoy.network.transport_socket.original_dst_address";

/// A hash key as an address. IPv4 because Envoy refuses IPv6 addresses on machines without IPv6.
#[allow(clippy::cast_possible_truncation)] // the bits that fit
fn key_as_address(key: &str) -> String {
    let hash = sticky_point(key);
    let ip = Ipv4Addr::from((hash >> 32) as u32);
    format!("{ip}:{}", (hash >> 16) as u16)
}

impl Envoy {
    /// With this beginning of its random numbers.
    pub(super) const fn new(random: u64) -> Self {
        Self { random, message: Vec::new(), lacks_key: false, is_logged: true }
    }

    /// Calls Envoy's `set_envoy_filter_state` with `SetEnvoyFilterStateArguments { path: 1, value: 2, span: 3
    /// }`, written by hand: a protobuf library would be half of the module. The span is left out, which means
    /// `FilterChain`: as long as the connection.
    fn set_filter_state(&mut self, path: &str, value: &str) -> Result<(), Status> {
        self.message.clear();
        put_string(&mut self.message, 1, path);
        put_string(&mut self.message, 2, value);
        abi::call("set_envoy_filter_state", &self.message)
    }
}

/// Appends a length-delimited field of a protobuf message.
fn put_string(out: &mut Vec<u8>, field: u8, text: &str) {
    out.push(field << 3 | 2);
    let mut length = text.len();
    loop {
        let [low, ..] = length.to_le_bytes();
        length >>= 7;
        out.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(text.as_bytes());
}

const fn buffer(way: Way) -> Buffer {
    match way {
        Way::ToServer => Buffer::DownstreamData,
        Way::ToClient => Buffer::UpstreamData,
    }
}

impl Host for Envoy {
    fn select(&mut self, connection: u32) -> Result<(), HostError> {
        abi::select(connection).map_err(refused("set_effective_context"))
    }

    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError> {
        self.set_filter_state("envoy.tcp_proxy.cluster", cluster).map_err(refused("the cluster"))
    }

    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError> {
        if !self.lacks_key {
            match self.set_filter_state(HASH_KEY, key) {
                Err(Status::NOT_FOUND) => self.lacks_key = true,
                other => return other.map_err(refused("the hash key")),
            }
        }
        self.set_filter_state(OLD_HASH_KEY, &key_as_address(key)).map_err(refused("the hash key"))
    }

    fn log(&mut self, record: &Record) {
        if self.is_logged {
            let _ = abi::set_property(PROPERTY, record.fields().as_bytes());
        }
    }

    fn upstream_failure(&mut self) -> Option<UpstreamFailure> {
        let flags = abi::property("response\0flags").ok()?;
        let flags = u64::from_le_bytes(flags.try_into().ok()?);
        if flags == 0 {
            return None;
        }
        let reason = abi::property("upstream\0transport_failure_reason").unwrap_or_default();
        let reason = String::from_utf8_lossy(&reason).into_owned();
        Some(UpstreamFailure { flags, reason })
    }

    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        const CALL: &str = "the source address";
        let bytes = abi::property("source\0address").map_err(refused(CALL))?;
        let text = std::str::from_utf8(&bytes).map_err(refused(CALL))?;
        out.clear();
        out.push_str(text);
        Ok(())
    }

    fn session_id(&mut self) -> Result<i64, HostError> {
        vm::session_id()
    }

    fn close(&mut self) -> Result<(), HostError> {
        abi::close().map_err(refused("close"))
    }

    fn count(&mut self, metric: Metric, by: i64) {
        counts::count(metric, by);
    }

    fn warn(&mut self, message: &str) {
        abi::log(Level::Warn, message);
    }
}

impl Stream for Envoy {
    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError> {
        match abi::buffer(buffer(way), 0, len) {
            Err(Status::NOT_FOUND) => Ok(Vec::new()),
            bytes => bytes.map_err(refused("get_buffer")),
        }
    }

    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        abi::set_buffer(buffer(way), 0, len, by).map_err(refused("set_buffer"))
    }

    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError> {
        // Envoy knows two places: 0, and whatever is behind the end.
        abi::set_buffer(buffer(way), usize::MAX, 0, bytes).map_err(refused("set_buffer"))
    }
}

impl Process for Envoy {
    fn now(&mut self) -> Result<u64, HostError> {
        vm::now()
    }

    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        shared::load(key, out)
    }

    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        shared::store(key, value, version)
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
