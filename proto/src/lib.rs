//! Generated code of the protocol buffers: the management API and the packets of gRPC game servers.

/// The management API, `realmgate.v1`.
#[allow(missing_docs, clippy::pedantic)] // generated; the .proto files carry the documentation
pub mod v1 {
    tonic::include_proto!("realmgate.v1");
}

/// Packets of game servers that speak gRPC, `gateway`.
#[allow(missing_docs, clippy::pedantic)] // generated, as above
pub mod gateway {
    tonic::include_proto!("gateway");
}
