//! The log: one line an event, to the standard error output, as text or JSON.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::visible::escaped;
use crate::settings::{Log, LogFormat};

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is no filter; the settings' own check finds this first.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// Another log is open in this process.
    #[error("the log is open already: {0}")]
    Open(#[from] TryInitError),
}

/// Opens the process's log.
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&log.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => {
            builder
                .with_ansi(io::stderr().is_terminal())
                .fmt_fields(OneLine::default())
                .finish()
                .try_init()?;
        }
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// A message and its fields as one line, whatever others wrote into them: an error says what a proxy or Consul said, and
/// the library escapes neither a message nor what is given as `%value`. JSON does so by itself.
#[derive(Debug, Default)]
pub(crate) struct OneLine(DefaultFields);

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&escaped(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_others_say_forges_no_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(OneLine::default())
            .finish();
        let name = "edge-1\n2026-01-01T00:00:00Z  INFO realmgate: all is well\u{1b}[2K";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(plain = name, shown = %name, debugged = ?name, "stream ended: {name}");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        assert_eq!(text.matches(r"edge-1\n2026").count(), 4, "{text}");
    }
}
