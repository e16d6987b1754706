//! Small Envoy messages that several kinds of resources contain.

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, CidrRange, ConfigSource, SocketAddress, address,
    config_source, socket_address,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value, UInt64Value};
use ipnet::IpNet;
use prost::{Message, Name};

/// "Over the same ADS stream".
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    }
}

/// A TCP address.
pub(super) fn address(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// A range of addresses.
pub(super) fn cidr(net: &IpNet) -> CidrRange {
    CidrRange { address_prefix: net.addr().to_string(), prefix_len: Some(uint32(net.prefix_len().into())) }
}

/// A message in its envelope.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A length of time; the model keeps them under a year.
pub(super) fn duration(millis: u64) -> Duration {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    Duration { seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX), nanos }
}

/// An optional number.
pub(super) const fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// An optional large number.
pub(super) const fn uint64(value: u64) -> UInt64Value {
    UInt64Value { value }
}
