//! `realmgate explain`: where a player's first message would go, and why.

use std::net::IpAddr;

use serde_json::Value;

use super::Failure;
use super::client::Api;
use super::output::{list, number, text};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Server type in the header: 10 account, 15 version, 200 game, or any other of 0 to 255.
    #[arg(long, value_name = "TYPE")]
    server_type: u8,
    /// World in the header.
    #[arg(long)]
    world: u16,
    /// Instance in the header.
    #[arg(long)]
    instance: u8,
    /// The player's address, for routes that hash or filter it.
    #[arg(long, value_name = "ADDRESS")]
    source_ip: Option<IpAddr>,
    /// The listener the player connects to; default: the first.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The datacenter of the edge the player connects to; default: the control plane's.
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { server_type, world, instance, source_ip, listener, datacenter, api } = arguments;
    let numbers = [server_type.to_string(), world.to_string(), instance.to_string()];
    let source_ip = source_ip.map(|ip| ip.to_string());
    let mut query: Vec<_> =
        ["server_type", "world", "instance"].into_iter().zip(numbers.iter().map(String::as_str)).collect();
    query.extend(source_ip.as_deref().map(|ip| ("source_ip", ip)));
    query.extend(listener.as_deref().map(|name| ("listener", name)));
    query.extend(datacenter.as_deref().map(|name| ("datacenter", name)));
    let answer = api.get("/v1/explain", &query)?;
    api.output.print(&answer, describe)?;
    // For scripts that ask whether players get anywhere.
    if is_matched(&answer) { Ok(()) } else { Err(Failure::failed("no route takes this player")) }
}

fn is_matched(answer: &Value) -> bool {
    answer.get("matched").and_then(Value::as_bool).unwrap_or_default()
}

fn describe(answer: &Value) -> String {
    let mut lines = Vec::new();
    if is_matched(answer) {
        lines.push(format!("route      {} ({})", text(answer, "/route"), text(answer, "/origin")));
        lines.push(format!("listener   {}", text(answer, "/listener")));
        let destinations = list(answer, "/destinations");
        for destination in destinations {
            let chosen = destination.get("chosen").and_then(Value::as_bool).unwrap_or_default();
            // One destination gets everybody, whatever its weight.
            let share = if chosen || destinations.len() == 1 {
                String::new()
            } else {
                format!(", by weight {}", number(destination, "/weight"))
            };
            lines.push(format!("cluster    {}{share}", text(destination, "/cluster")));
            let targets = list(destination, "/targets");
            if targets.is_empty() {
                lines.push(format!("endpoints  {}", endpoints(destination)));
            }
            lines.extend(targets.iter().map(target));
            let refused = list(destination, "/refused").iter().filter_map(Value::as_str);
            lines.extend(refused.map(|refused| format!("not used   {refused}")));
        }
    } else {
        lines.push("no route matches: the player is refused".to_owned());
    }
    lines.push(format!("reason     {}", text(answer, "/reason")));
    for outranked in list(answer, "/outranked").iter().filter_map(Value::as_str) {
        lines.push(format!("outranked  {outranked}"));
    }
    lines.join("\n")
}

fn endpoints(of: &Value) -> String {
    let endpoints: Vec<_> = list(of, "/endpoints").iter().filter_map(Value::as_str).collect();
    if endpoints.is_empty() { "none".to_owned() } else { endpoints.join(", ") }
}

fn target(target: &Value) -> String {
    let named = |path| target.pointer(path).and_then(Value::as_str).filter(|name| !name.is_empty());
    let mut place = named("/service").unwrap_or("-").to_owned();
    place.extend(named("/subset").map(|subset| format!(", subset {subset}")));
    place.extend(named("/datacenter").map(|datacenter| format!(" in {datacenter}")));
    let share = match number(target, "/share") {
        all if all == "100" => String::new(),
        part => format!(", {part} % of the players"),
    };
    let (turn, why) = (number(target, "/priority"), text(target, "/why"));
    format!("priority {turn} {place} ({why}){share}: {}", endpoints(target))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::describe;

    #[test]
    fn says_where_and_why() {
        let answer = json!({"matched": true, "route": "game-any", "origin": "policy route `game-any`",
            "listener": "edge", "reason": "any world wins",
            "destinations": [
                {"cluster": "blue", "weight": 9, "chosen": true, "endpoints": ["1.2.3.4:5", "1.2.3.5:5"]},
                {"cluster": "green", "weight": 1, "chosen": false, "endpoints": []}],
            "outranked": ["game-7 (a game-gateway rule for any world)"]});
        let text = describe(&answer);
        for part in [
            "game-any (policy route `game-any`)",
            "1.2.3.4:5, 1.2.3.5:5",
            "cluster    blue\n",
            "green, by weight 1",
            "game-7",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_single_destination_has_no_share() {
        let answer =
            json!({"matched": true, "destinations": [{"cluster": "game", "weight": 1, "chosen": false}]});
        assert!(describe(&answer).contains("cluster    game\nendpoints  none"), "{}", describe(&answer));
    }

    #[test]
    fn shows_targets_in_their_turn_and_those_that_are_none() {
        let target = |priority, datacenter, share| {
            json!({"priority": priority, "datacenter": datacenter, "service": "game", "subset": "", "share": share,
                "endpoints": ["1.2.3.4:5"], "why": "in the edge's own datacenter"})
        };
        let answer = json!({"matched": true, "destinations": [{"cluster": "game", "weight": 1,
            "targets": [target(0, "aws", 100), target(1, "azure", 30)], "refused": ["eu: not among"]}]});
        let text = describe(&answer);
        for part in [
            "priority 0 game in aws (in the edge's own datacenter): 1.2.3.4:5\n",
            "priority 1 game in azure (in the edge's own datacenter), 30 % of the players: 1.2.3.4:5\n",
            "not used   eu: not among\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn missing_fields_are_dashes() {
        assert!(describe(&json!({"matched": true})).contains("route      - (-)"));
        assert!(describe(&json!({})).starts_with("no route matches"));
    }
}
