//! Streams that nobody thought of: clients and servers that speak the protocol, nearly speak it, or do not at all, in any
//! pieces. A seed gives the same ones every time.
//!
//! What has to come of each is what the filter's core makes of it, which fuzzing holds against models; the built module and
//! Envoy have to agree with it to the byte.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Expect, Scenario, Step, run_natively};
use crate::Failure;

/// Server types of the routes below, and one that no route takes.
const SERVER_TYPES: [u8; 4] = [200, 201, 202, 7];

/// So many scenarios. Those of one seed share a configuration.
///
/// # Errors
/// The core could not run one.
pub fn corpus(seed: u64, count: usize) -> Result<Vec<Scenario>, Failure> {
    let mut chance = Rng::with_seed(seed);
    let max_message_bytes = if chance.bool() { 0 } else { 1000 };
    let config = json!({"header_timeout_ms": 0, "max_message_bytes": max_message_bytes, "routes": [
        {"server_type": 200, "worlds": "1-9", "to": [{"cluster": "world-{world}"}]},
        {"server_type": 200, "to": [{"cluster": "any"}]},
        {"server_type": 201, "to": [{"cluster": "framed", "framing": "server"}]},
        {"server_type": 202, "to": [{"cluster": "traced", "framing": "server-traced"}]}]});
    (0..count).map(|number| scenario(format!("seed {seed}, {number}"), &config, &mut chance)).collect()
}

fn scenario(name: String, config: &Value, chance: &mut Rng) -> Result<Scenario, Failure> {
    let (sent, mut replied) = (client(chance), server(chance));
    let mut steps: Vec<_> = pieces(&sent, chance).into_iter().map(Step::Send).collect();
    let mut scenario = Scenario {
        name,
        config: config.clone(),
        source: None,
        before: Vec::new(),
        steps: steps.clone(),
        expect: Expect::Waiting,
    };
    // A server speaks to those alone who have reached it, and to none who was cut off.
    let alone = run_natively(&scenario)?;
    if alone.cluster.is_none() || alone.closed.is_some() {
        replied.clear();
    }
    steps.extend(pieces(&replied, chance).into_iter().map(Step::Reply));
    if chance.u8(..4) == 0 {
        steps.push(Step::EndStream);
    }
    scenario.steps = steps;
    let outcome = run_natively(&scenario)?;
    scenario.expect = match (outcome.cluster, outcome.closed) {
        (Some(cluster), closed) => Expect::Routed {
            clusters: vec![cluster],
            hash_key: outcome.hash_key,
            to_backend: Some(outcome.to_backend),
            to_client: Some(outcome.to_client),
            closed,
        },
        (None, Some(reason)) => Expect::Closed(reason),
        (None, None) => Expect::Waiting,
    };
    Ok(scenario)
}

/// What a client sends in all.
fn client(chance: &mut Rng) -> Vec<u8> {
    let server_type = *chance.choice(&SERVER_TYPES).unwrap_or(&0);
    let mut stream = Vec::new();
    for _ in 0..chance.u8(..5) {
        let body = body(chance);
        let [low, high] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes();
        let flag = if chance.u8(..4) == 0 { 0x80 } else { 0 };
        stream.extend([low, high, chance.u8(..), chance.u8(..), chance.u8(..12), server_type, 0, flag]);
        stream.extend(body);
    }
    spoil(stream, chance)
}

/// What a server that is spoken to in 20 + 9 bytes sends in all; whatever it is for other players.
fn server(chance: &mut Rng) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..chance.u8(..5) {
        let body = body(chance);
        let length = i32::try_from(body.len() + 9).unwrap_or(i32::MAX);
        stream.extend(length.to_le_bytes());
        stream.extend((4..29).map(|_| chance.u8(..)));
        stream.extend(body);
    }
    spoil(stream, chance)
}

/// Mostly short, so that many messages come in one piece; now and then the longest.
fn body(chance: &mut Rng) -> Vec<u8> {
    let len = match chance.u8(..16) {
        0 => usize::from(u16::MAX),
        1..=3 => chance.usize(..3000),
        _ => chance.usize(..64),
    };
    (0..len).map(|_| chance.u8(..)).collect()
}

/// Half of the streams as they are; of the others bytes are other ones, or the end is missing, or all is noise.
fn spoil(mut stream: Vec<u8>, chance: &mut Rng) -> Vec<u8> {
    match chance.u8(..6) {
        0 => stream.truncate(chance.usize(..=stream.len())),
        1 => {
            for _ in 0..chance.u8(1..4) {
                let other = chance.u8(..);
                let early = chance.usize(..=stream.len().min(64));
                if let Some(byte) = stream.get_mut(early) {
                    *byte = other;
                }
            }
        }
        2 => stream = (0..chance.usize(..200)).map(|_| chance.u8(..)).collect(),
        _ => {}
    }
    stream
}

/// In one piece, in few, or at first byte by byte.
fn pieces(stream: &[u8], chance: &mut Rng) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let largest = *chance.choice(&[usize::MAX, 20_000, 600, 5, 1]).unwrap_or(&usize::MAX);
    let mut rest = stream;
    while !rest.is_empty() {
        // Of a long stream in small pieces only the beginning is of interest.
        let most = if pieces.len() < 40 { largest.min(rest.len()) } else { rest.len() };
        let (piece, behind) = rest.split_at(chance.usize(1..=most));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}
