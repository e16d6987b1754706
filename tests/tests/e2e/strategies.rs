//! How many players move when a server goes or comes, by strategy: measured through a real Envoy, held to bounds, and
//! written into docs/routing.md.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::{env, fs};

use realmgate_tests::{GameClient, GameServer, Stage, TestNet, wait_until};
use realmgate_wire::ServerId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cast::{LIMIT, servers};

const ROUTING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/routing.md");
const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// Servers before one goes.
const SIZES: [usize; 3] = [2, 4, 8];

/// Instances of a world; the header has room for 255.
const INSTANCES: u8 = 250;

/// Worlds that play in the test and for the document. A player is a world and an instance.
const WORLDS: u16 = 2;
const WORLDS_FOR_THE_DOCUMENT: u16 = 12;

/// In the order of the table; each is a server type of the same number.
const STRATEGIES: [&str; 6] =
    ["maglev", "ring_hash", "consistent_hash", "realm_based", "round_robin", "least_request"];

/// Where each player of a strategy is, in the order of [`players`].
type Placed = Vec<String>;

fn players(worlds: u16) -> Vec<(u16, u8)> {
    (1..=worlds).flat_map(|world| (1..=INSTANCES).map(move |instance| (world, instance))).collect()
}

/// Makes these the endpoints, and waits until the edge has them.
fn serve(stage: &Stage, servers: &[&GameServer]) {
    let endpoints: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let routes = (1..).zip(STRATEGIES).map(|(server_type, strategy): (u8, _)| {
        let mut route = json!({"name": strategy, "server_type": server_type, "strategy": strategy,
            "to": [{"service": "all"}]});
        if matches!(strategy, "maglev" | "ring_hash") {
            route["hash_key"] = json!("world_instance");
        }
        route
    });
    let policy = json!({"listeners": stage.listener(&json!({})), "routes": routes.collect::<Vec<Value>>(),
        "services": [{"name": "all", "endpoints": endpoints}]});
    stage.control_plane.put_policy(&policy.to_string());
    for cluster in ["all", "all/maglev", "all/ring_hash", "all/least_request"] {
        let stat = format!("cluster.{cluster}.membership_total");
        wait_until("the edge has the endpoints", LIMIT, || stage.edge.stat(&stat) == servers.len() as u64);
    }
}

async fn placed(edge: SocketAddr, server_type: u8, players: &[(u16, u8)]) -> Placed {
    let mut groups = JoinSet::new();
    for (number, group) in (2..).zip(players.chunks(players.len().div_ceil(8))) {
        let group = group.to_vec();
        groups.spawn(async move {
            let mut on = Vec::new();
            for (world, instance) in group {
                // Of an address of its own, so that there are ports enough for all.
                let source = Ipv4Addr::new(127, 0, 0, number).into();
                let mut client = GameClient::connect_from(source, edge).await.unwrap();
                let to = ServerId::new(server_type, world, instance, false);
                on.push(client.who_are_you(to).await.unwrap());
            }
            (number, on)
        });
    }
    let mut groups = groups.join_all().await;
    groups.sort_by_key(|(number, _)| *number);
    groups.into_iter().flat_map(|(_, on)| on).collect()
}

async fn all_placed(edge: SocketAddr, players: &[(u16, u8)]) -> Vec<Placed> {
    let mut all = Vec::new();
    for server_type in (1..).take(STRATEGIES.len()) {
        all.push(placed(edge, server_type, players).await);
    }
    all
}

fn share(part: usize, whole: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(whole).unwrap())
}

/// The share of players that are elsewhere.
fn moved(before: &Placed, after: &Placed) -> f64 {
    share(before.iter().zip(after).filter(|(before, after)| before != after).count(), before.len())
}

/// The share of players on the fullest server.
fn fullest(placed: &Placed) -> f64 {
    let mut on = HashMap::new();
    for server in placed {
        *on.entry(server).or_insert(0) += 1;
    }
    share(on.into_values().max().unwrap(), placed.len())
}

/// What the document says of a strategy: for each size the share that moves, then the fullest of the most servers.
fn check_bounds(strategy: &str, row: &[f64; 4]) {
    for (size, moved) in SIZES.into_iter().zip(row) {
        let least = share(1, size);
        let allowed = match strategy {
            // Nobody moves but the players of the server, and very few more.
            "maglev" => least - 0.08..least + 0.09,
            // The ring is cut anew, which moves about as many again.
            "ring_hash" => least - 0.10..2.2 * least + 0.06,
            // Of n players one stays.
            _ => 1.0 - least - 0.12..1.0 - least + 0.12,
        };
        assert!(allowed.contains(moved), "{strategy}: {moved} of {size} servers' players moved");
    }
    let fair = share(1, SIZES[2]);
    assert!((fair..2.0 * fair).contains(&row[3]), "{strategy}: {} on one of {}", row[3], SIZES[2]);
}

fn table(rows: &[[f64; 4]], players: usize) -> String {
    let mut text = format!(
        "{BEGIN}Measured with {players} players for each strategy (worlds 1 to {WORLDS_FOR_THE_DOCUMENT}, instances 1 to \
         {INSTANCES} each), each a\nconnection through Envoy 1.40 with the filter, before and after one of n endpoints was taken \
         out of the policy.\n\n| strategy | 2 endpoints | 4 endpoints | 8 endpoints | fullest of 8 |\n\
         | --- | --- | --- | --- | --- |\n"
    );
    for (strategy, row) in STRATEGIES.iter().zip(rows) {
        let cells = row.map(|share| format!("{:.1} %", share * 100.0)).join(" | ");
        writeln!(text, "| `{strategy}` | {cells} |").unwrap();
    }
    text + END
}

/// The document's table, read back.
fn documented() -> HashMap<String, Vec<f64>> {
    let text = fs::read_to_string(ROUTING).unwrap();
    let table = text.split_once(BEGIN).unwrap().1.split_once(END).unwrap().0;
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| {
        let (strategy, cells) = line.split_once("` |").unwrap();
        let number = |cell: &str| cell.trim().strip_suffix(" %")?.parse::<f64>().ok();
        (strategy.to_owned(), cells.split('|').filter_map(number).map(|percent| percent / 100.0).collect())
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_players_move_as_the_document_says() {
    let update = env::var_os("UPDATE_DOCS").is_some();
    let players = players(if update { WORLDS_FOR_THE_DOCUMENT } else { WORLDS });
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let edge = stage.players();
    let servers = servers(&stage.net, 8, 0).await;
    let mut rows = [[0.0; 4]; STRATEGIES.len()];
    for (column, size) in SIZES.into_iter().enumerate() {
        let with: Vec<_> = servers.iter().take(size).collect();
        let without: Vec<_> =
            with.iter().enumerate().filter_map(|(n, s)| (n != size / 2).then_some(*s)).collect();
        serve(&stage, &with);
        let before = all_placed(edge, &players).await;
        serve(&stage, &without);
        let after = all_placed(edge, &players).await;
        for (number, row) in rows.iter_mut().enumerate() {
            row[column] = moved(&before[number], &after[number]);
            row[3] = fullest(&before[number]);
        }
        if size == 4 {
            serve(&stage, &with);
            for (server_type, number) in (1..=4).zip(0..) {
                let back = placed(edge, server_type, &players).await;
                assert_eq!(before[number], back, "{}: not back", STRATEGIES[number]);
            }
        }
    }
    for (strategy, row) in STRATEGIES.iter().zip(&rows) {
        println!("{strategy}: {row:.3?}");
    }
    if update {
        let text = fs::read_to_string(ROUTING).unwrap();
        let (head, rest) = text.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        fs::write(ROUTING, format!("{head}{}{tail}", table(&rows, players.len()))).unwrap();
    }
    let documented = documented();
    for (strategy, row) in STRATEGIES.iter().zip(&rows) {
        check_bounds(strategy, row);
        for (said, measured) in documented[*strategy].iter().zip(row) {
            // The hashes are of addresses, of which each run has others.
            assert!((said - measured).abs() < 0.12, "{strategy}: documented {said}, measured {measured}");
        }
    }
}
