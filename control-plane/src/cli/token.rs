//! `realmgate token`: a token for a proxy, and the line that says what it is good for.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_rustls::rustls::crypto::ring;

use super::{Failure, output};
use crate::xds::token_line;

/// What could be taken for the end of a value, and more, in a line.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token: it goes into a new file, and its line for `xds.token_file` to the standard output.
    #[command(after_help = "  realmgate token new --role sidecar --service game --out game.token >> tokens")]
    New(New),
}

#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// Who may show it: `edge`, `sidecar`, `operator` (asks how proxies are, and is none) or `*`.
    #[arg(long)]
    role: String,
    /// The service that its owner may be, or `*`; of an edge the one of all edges if left out.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The datacenter that its owner may name, or `*`.
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// The cell that its owner may name, or `*`.
    #[arg(long, value_name = "NAME")]
    cell: Option<String>,
    /// File for the token, which must not be there; `envoy-bootstrap --token-file` takes it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New(new) = command;
    let token = random()?;
    let line = token_line(&token, &new.words()).map_err(|why| {
        // It has one line, whose number says nothing here.
        Failure::usage(why.trim_start_matches("line 1: ").to_owned())
    })?;
    write(&new.out, &token)
        .map_err(|e| Failure::failed(format!("cannot write {}: {e}", new.out.display())))?;
    output::print(&line)
}

impl New {
    fn words(&self) -> String {
        let optional = [("service", &self.service), ("datacenter", &self.datacenter), ("cell", &self.cell)];
        let value = |text: &str| match text {
            "*" => text.to_owned(),
            _ => utf8_percent_encode(text, ENCODED).to_string(),
        };
        let words =
            optional.iter().filter_map(|(key, text)| Some(format!(" {key}={}", value(text.as_deref()?))));
        format!("role={}", value(&self.role)) + &words.collect::<String>()
    }
}

/// 256 bits that nobody guesses.
fn random() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    let filled = ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::failed("the system gives no random numbers".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Without a line's end, which some Envoys do not bear.
fn write(path: &Path, token: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.as_bytes())
}
