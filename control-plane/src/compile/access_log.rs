//! The access log of a game listener: one JSON object a line and connection, at its end. docs/access-log.md says what
//! each field means.
//!
//! It is written as text, since the order of a map's entries in an encoded message is not settled and a new order
//! would replace the listener. So nothing may stand in it that could break out of a JSON string: of Envoy's own words
//! only numbers, addresses, names of ours and fixed words are used, and what peers may have a say in comes from the
//! filter, which escapes it. The filter's fields start with a comma, so that a line without them is whole.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ExtensionFilter, access_log, access_log_filter::FilterSpecifier,
    extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use envoy_types::pb::google::protobuf::{Any, Value, value::Kind};
use prost::{Message, Name};
use realmgate_filter::access_log::PROPERTY;

use super::envoy;
use crate::mesh::EdgeSettings;
use crate::model::Listener;
use crate::xds::Scope;

/// The standard output by the name that it has on every Unix. Envoy has a logger of its own for it, which needs no
/// file to be opened.
const STDOUT: &str = "/dev/stdout";

/// The access log, where there is to be one. Unless `shows_clients`, it is the filter that says of a client's address what
/// may be said, and a connection that the filter never saw has none.
pub(super) fn access_log(
    listener: &Listener,
    scope: &Scope,
    edge: &EdgeSettings,
    shows_clients: bool,
) -> Option<AccessLog> {
    edge.access_log.as_deref().map(|path| text(path, format(listener, scope, shows_clients)))
}

fn text(path: &str, format: String) -> AccessLog {
    let format = SubstitutionFormatString {
        // Empty texts instead of dashes.
        omit_empty_values: true,
        format: Some(Format::TextFormatSource(DataSource {
            specifier: Some(data_source::Specifier::InlineString(format)),
            ..DataSource::default()
        })),
        ..SubstitutionFormatString::default()
    };
    if path == STDOUT {
        let access_log_format = Some(stdout_access_log::AccessLogFormat::LogFormat(format));
        logger("envoy.access_loggers.stdout", envoy::any(&StdoutAccessLog { access_log_format }))
    } else {
        let access_log_format = Some(file_access_log::AccessLogFormat::LogFormat(format));
        let file = FileAccessLog { path: path.to_owned(), access_log_format };
        logger("envoy.access_loggers.file", envoy::any(&file))
    }
}

/// An access log at this path whose lines Envoy makes JSON of, escaping what peers have a say in.
pub(super) fn json(path: &str, fields: &[(&str, &str)]) -> AccessLog {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = fields.iter().map(|(name, format)| ((*name).to_owned(), value(format))).collect();
    let format = Some(JsonFormat { fields: Some(Fields { fields }) });
    if path == STDOUT {
        let value = JsonStdout { format }.encode_to_vec();
        logger("envoy.access_loggers.stdout", Any { type_url: StdoutAccessLog::type_url(), value })
    } else {
        let value = JsonFile { path: path.to_owned(), format }.encode_to_vec();
        logger("envoy.access_loggers.file", Any { type_url: FileAccessLog::type_url(), value })
    }
}

/// `StdoutAccessLog`, `FileAccessLog`, `SubstitutionFormatString` and `Struct`, those fields alone, with a map that is always
/// encoded in the same order.
#[derive(Clone, PartialEq, Message)]
struct JsonStdout {
    #[prost(message, optional, tag = "1")]
    format: Option<JsonFormat>,
}

#[derive(Clone, PartialEq, Message)]
struct JsonFile {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "5")]
    format: Option<JsonFormat>,
}

#[derive(Clone, PartialEq, Message)]
struct JsonFormat {
    #[prost(message, optional, tag = "2")]
    fields: Option<Fields>,
}

#[derive(Clone, PartialEq, Message)]
struct Fields {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// Lines only of those connections of which this expression holds.
pub(super) fn cel(expression: &str) -> AccessLogFilter {
    let filter = ExpressionFilter { expression: expression.to_owned(), ..ExpressionFilter::default() };
    let filter = ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(envoy::any(&filter))),
    };
    AccessLogFilter { filter_specifier: Some(FilterSpecifier::ExtensionFilter(filter)) }
}

fn logger(name: &str, config: Any) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..AccessLog::default()
    }
}

fn format(listener: &Listener, scope: &Scope, shows_clients: bool) -> String {
    // Before 1.38 Envoy knows its own reason but has no word for it; see `Scope::hashes_addresses`.
    let reason = if scope.hashes_addresses { "" } else { "%DOWNSTREAM_LOCAL_CLOSE_REASON%" };
    let fields = [
        ("time", r#""%START_TIME%""#.to_owned()),
        ("listener", literal(&listener.name)),
        ("datacenter", literal(&scope.datacenter)),
        ("client.address", r#""%DOWNSTREAM_REMOTE_ADDRESS%""#.to_owned()),
        ("duration_ms", "%DURATION%".to_owned()),
        ("network.io.receive", "%BYTES_RECEIVED%".to_owned()),
        ("network.io.send", "%BYTES_SENT%".to_owned()),
        ("cluster", r#""%UPSTREAM_CLUSTER%""#.to_owned()),
        ("server.address", r#""%UPSTREAM_HOST%""#.to_owned()),
        ("envoy.flags", r#""%RESPONSE_FLAGS%""#.to_owned()),
        ("envoy.close_reason", format!("\"{reason}\"")),
    ];
    let shown = fields.iter().filter(|(name, _)| shows_clients || *name != "client.address");
    let fields: Vec<_> = shown.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}%FILTER_STATE(wasm.{PROPERTY}:PLAIN)%}}\n", fields.join(","))
}

/// Text as a JSON string that Envoy's format passes on as it is.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_envoy_reads_and_always_the_same() {
        let fields = [("b", "%DURATION%"), ("a", "%START_TIME%"), ("c", "x")];
        let config = |path: &str| match json(path, &fields).config_type {
            Some(access_log::ConfigType::TypedConfig(any)) => any,
            other => panic!("{other:?}"),
        };
        assert_eq!(config("/log"), config("/log"));
        let file = FileAccessLog::decode(&*config("/log").value).unwrap();
        let stdout = StdoutAccessLog::decode(&*config(STDOUT).value).unwrap();
        let Some(file_access_log::AccessLogFormat::LogFormat(in_file)) = file.access_log_format else {
            panic!()
        };
        let Some(stdout_access_log::AccessLogFormat::LogFormat(out)) = stdout.access_log_format else {
            panic!()
        };
        assert_eq!((in_file.clone(), &*file.path), (out, "/log"));
        let Some(Format::JsonFormat(json)) = in_file.format else { panic!() };
        assert_eq!(json.fields.len(), 3);
        assert_eq!(json.fields["a"].kind, Some(Kind::StringValue("%START_TIME%".to_owned())));
    }

    #[test]
    fn names_cannot_break_out_of_a_line() {
        let listener =
            EdgeSettings::gateway_listener(([127, 0, 0, 1], 1).into(), crate::model::Limits::default());
        let datacenter = "a\"b\\c\n%START_TIME%".to_owned();
        let scope = Scope { datacenter: datacenter.clone(), ..Scope::default() };
        let private = format(&listener, &scope, false);
        assert!(!private.contains("client.address") && !private.contains("REMOTE_ADDRESS"), "{private}");
        let format = format(&listener, &scope, true);
        assert!(format.contains("%%START_TIME%%"), "{format}");
        // As Envoy would write it of a connection that the filter never saw.
        let kept = format.replace("%%", "\u{1}");
        let written = |(n, part): (usize, &str)| match n % 2 {
            0 => part.to_owned(),
            _ if part.starts_with("FILTER_STATE") => String::new(),
            _ => "0".to_owned(),
        };
        let line: String = kept.split('%').enumerate().map(written).collect();
        let line: serde_json::Value = serde_json::from_str(&line.replace('\u{1}', "%")).unwrap();
        assert_eq!(line["datacenter"], datacenter);
        assert_eq!(line["listener"], "game-gateway");
    }
}
