//! A YAML or JSON text as a tree that remembers where each value stands.

use saphyr::{MarkedYaml, Scalar, YamlData, YamlLoader};
use saphyr_parser::{Event, Parser, Span, SpannedEventReceiver};
use serde_json::Value;

use super::{Effort, Place, Problem, Unread};

/// Longest text that is read. 32,767 worlds of a route each need about 3 MiB.
pub const MAX_BYTES: usize = 4 << 20;

/// What is wrong with a document that says nothing: a file that was forgotten, `null`, `[]`, a single value. It may have
/// been meant to hold something, and must not remove everything.
pub const EMPTY: &str =
    "empty: the document has no keys, so it is no policy; one that routes nothing is `{}`";

/// Deepest nesting that is read; a policy needs 5. The tree is walked by recursion.
const MAX_DEPTH: usize = 64;

/// A text whose values can be found by their path.
pub(super) struct Document<'a> {
    root: MarkedYaml<'a>,
}

impl<'a> Document<'a> {
    /// Reads one YAML document (JSON is one), which has to be a mapping.
    pub(super) fn load(text: &'a str, effort: &Effort<'_>) -> Result<Self, Unread> {
        if text.len() > MAX_BYTES {
            let why = format!("the document has {} bytes; {MAX_BYTES} is the most", text.len());
            return Err(Problem::at("", why).into());
        }
        let mut loader = YamlLoader::<MarkedYaml<'a>>::default();
        let mut depth = 0;
        for event in Parser::new_from_str(text) {
            effort.step()?;
            let (event, span) = event.map_err(|e| syntax(&e))?;
            check_shape(&event, span, &mut depth)?;
            loader.on_event(event, span);
            if let Some(error) = loader.error() {
                return Err(syntax(error).into());
            }
        }
        let mut documents = loader.into_documents();
        if documents.len() > 1 {
            return Err(
                Problem::at("", "the text holds several YAML documents (`---`); one is wanted").into()
            );
        }
        let Some(root) = documents.pop() else { return Err(Problem::at("", EMPTY).into()) };
        let fault = match &root.data {
            YamlData::Mapping(_) => return Ok(Self { root }),
            YamlData::Sequence(items) if !items.is_empty() => {
                "this is a list; a mapping is wanted, as `routes: [...]`"
            }
            _ => EMPTY,
        };
        Err(at_line(root.span.start.line(), root.span.start.col() + 1, fault).into())
    }

    /// The document as JSON, which serde reads.
    pub(super) fn to_json(&self) -> Result<Value, Problem> {
        to_json(&self.root)
    }

    /// Fills in where the value of `place.path` stands: the value itself (or, `at_key`, its key), or its nearest ancestor that
    /// is written.
    pub(super) fn locate(&self, place: &mut Place, at_key: bool) {
        let (mut node, mut key_of) = (&self.root, None);
        for step in place.path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let child = match (&node.data, step.strip_suffix(']')) {
                (YamlData::Sequence(items), Some(index)) => {
                    index.parse().ok().and_then(|i: usize| items.get(i)).map(|item| (None, item))
                }
                (YamlData::Mapping(fields), None) => fields.iter().find_map(|(key, value)| {
                    (scalar_text(key).as_deref() == Some(step)).then_some((Some(key), value))
                }),
                _ => None,
            };
            let Some(child) = child else { break };
            (key_of, node) = child;
        }
        let node = key_of.filter(|_| at_key).unwrap_or(node);
        (place.line, place.column) = (Some(node.span.start.line()), Some(node.span.start.col() + 1));
    }
}

/// Refuses what would blow up when the tree is built: aliases (a few lines can stand for gigabytes) and
/// deep nesting.
fn check_shape(event: &Event<'_>, span: Span, depth: &mut usize) -> Result<(), Problem> {
    let fault = match event {
        Event::Alias(_) => "anchors and aliases (`&`, `*`) are not supported; write the value out",
        Event::SequenceStart(..) | Event::MappingStart(..) => {
            *depth += 1;
            if *depth <= MAX_DEPTH {
                return Ok(());
            }
            "nested too deeply"
        }
        Event::SequenceEnd | Event::MappingEnd => {
            *depth = depth.saturating_sub(1);
            return Ok(());
        }
        _ => return Ok(()),
    };
    Err(at_line(span.start.line(), span.start.col() + 1, fault))
}

fn syntax(error: &saphyr::ScanError) -> Problem {
    at_line(error.marker().line(), error.marker().col() + 1, error.info())
}

fn at_line(line: usize, column: usize, message: &str) -> Problem {
    let mut problem = Problem::at("", message);
    (problem.place.line, problem.place.column) = (Some(line), Some(column));
    problem
}

fn to_json(node: &MarkedYaml<'_>) -> Result<Value, Problem> {
    let here = |message: &str| at_line(node.span.start.line(), node.span.start.col() + 1, message);
    Ok(match &node.data {
        YamlData::Value(Scalar::Null) => Value::Null,
        YamlData::Value(Scalar::Boolean(value)) => Value::Bool(*value),
        YamlData::Value(Scalar::Integer(value)) => Value::from(*value),
        // JSON has no other numbers; as `null` it would be no value at all.
        YamlData::Value(Scalar::FloatingPoint(value)) if value.is_finite() => Value::from(value.into_inner()),
        YamlData::Value(Scalar::FloatingPoint(_)) => {
            return Err(here("not a number that can be read here; if a text is meant, put it in quotes"));
        }
        YamlData::Value(Scalar::String(value)) => Value::from(value.as_ref()),
        YamlData::Sequence(items) => Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        YamlData::Mapping(fields) => {
            let field = |(key, value)| {
                let name = scalar_text(key).ok_or_else(|| here("a key must be a plain word"))?;
                Ok((name, to_json(value)?))
            };
            Value::Object(fields.iter().map(field).collect::<Result<_, Problem>>()?)
        }
        _ => return Err(here("not a value that can be read here")),
    })
}

fn scalar_text(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        _ => None,
    }
}
