//! Cluster-name templates: `game/{world}` parsed once at configuration, rendered once a connection.

use std::fmt::Write as _;

use realmgate_wire::ServerId;

/// Which placeholders a template may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// `{server_type}`, `{world}` and `{instance}`.
    Header,
    /// Those and `{pick}`, the index that a compatible hash gave.
    HeaderAndPick,
}

/// A parsed cluster name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    ServerType,
    World,
    Instance,
    Pick,
}

impl Template {
    /// Reads `text`. Braces only ever enclose a placeholder; there is no escape, for cluster names need none.
    ///
    /// # Errors
    /// Says what is wrong: an empty name, an unknown placeholder, a brace without its partner.
    pub fn parse(text: &str, allowed: Allowed) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a cluster name cannot be empty".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            push_text(&mut parts, before)?;
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            parts.push(match name {
                "server_type" => Part::ServerType,
                "world" => Part::World,
                "instance" => Part::Instance,
                "pick" if allowed == Allowed::HeaderAndPick => Part::Pick,
                "pick" => return Err("placeholder {pick} is known only in pick.cluster".to_owned()),
                _ => return Err(format!("unknown placeholder {{{name}}}")),
            });
            rest = after;
        }
        push_text(&mut parts, rest)?;
        Ok(Self { parts })
    }

    /// Replaces what `out` holds by the name for this header. Allocates only where `out` is too small.
    pub fn render(&self, id: ServerId, pick: u32, out: &mut String) {
        out.clear();
        for part in &self.parts {
            // Writing to a string never fails.
            let _ = match part {
                Part::Text(text) => out.write_str(text),
                Part::ServerType => write!(out, "{}", id.server_type()),
                Part::World => write!(out, "{}", id.world()),
                Part::Instance => write!(out, "{}", id.instance()),
                Part::Pick => write!(out, "{pick}"),
            };
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), String> {
    if text.contains('}') {
        return Err(format!("`{text}` has a `}}` without its `{{`"));
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, allowed: Allowed) -> String {
        let mut out = "left over".to_owned();
        Template::parse(text, allowed).unwrap().render(ServerId::new(200, 17, 3, true), 4, &mut out);
        out
    }

    #[test]
    fn placeholders_are_replaced() {
        assert_eq!(rendered("plain", Allowed::Header), "plain");
        assert_eq!(rendered("{server_type}/{world}/{instance}", Allowed::Header), "200/17/3");
        assert_eq!(rendered("w{world}{world}x", Allowed::Header), "w1717x");
        assert_eq!(rendered("game-{world}-{pick}", Allowed::HeaderAndPick), "game-17-4");
    }

    #[test]
    fn bad_templates_are_refused_by_name() {
        let refusal = |text| Template::parse(text, Allowed::Header).unwrap_err();
        assert_eq!(refusal("game-{wrld}"), "unknown placeholder {wrld}");
        assert_eq!(refusal("{}"), "unknown placeholder {}");
        assert_eq!(refusal("{ world }"), "unknown placeholder { world }");
        assert_eq!(refusal("{{world}}"), "unknown placeholder {{world}");
        assert_eq!(refusal("{pick}"), "placeholder {pick} is known only in pick.cluster");
        assert_eq!(refusal("game-{world"), "`game-{world` has a `{` without its `}`");
        assert_eq!(refusal("world}"), "`world}` has a `}` without its `{`");
        assert_eq!(refusal(""), "a cluster name cannot be empty");
    }
}
