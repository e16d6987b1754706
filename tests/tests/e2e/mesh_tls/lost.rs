//! A lost authority: a new one is not forced on proxies that believe another, and cuts nobody off.

use super::*;

fn held(mesh: &Mesh) -> Value {
    serde_json::from_str::<Value>(&mesh.control_plane.readyz().1).unwrap()["held_proxies"].clone()
}

/// The numbers of its certificates; all else that it says of them changes with the time.
fn serials(envoy: &Envoy) -> Vec<String> {
    let certificates = envoy.get("/certs");
    certificates.lines().filter(|line| line.contains("serial_number")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_keep_certificates_of_a_lost_authority_until_a_new_one_is_meant() {
    let mut mesh = Mesh::start(&json!({})).await;
    let edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    let allowed = json!([intention("realmgate-edge", "api", "allow")]);
    mesh.intend(&allowed, "deny");
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(players, 1, stopped));
    wait_until("the session is live", LIMIT, || mesh.server.live() > 0);
    let data = mesh.net.dir().join("data");
    let authority = || fs::read_to_string(data.join("mesh-ca.json")).unwrap();
    let before = authority();
    let certificates = || [&edge, &mesh.sidecar].map(serials);
    let had = certificates();

    // All of it: the policy and the authority.
    mesh.control_plane.kill9();
    fs::remove_dir_all(&data).unwrap();
    mesh.control_plane.restart().unwrap();
    wait_until("both keep what they have", LIMIT, || held(&mesh) == 2);
    assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1", "a new player without a policy");
    mesh.control_plane.put_policy_with("", &policy(&mesh.net, &allowed, "deny"));
    let kept = || String::from_utf8(mesh.control_plane.realmgate(&["proxies"]).unwrap().stdout).unwrap();
    wait_until("the policy is known again, the authority is another", LIMIT, || {
        kept().matches("the embedded authority was made anew").count() == 2
    });
    assert_ne!(authority(), before, "there is a new one");
    assert_eq!(lands(players, game(3, 1)).await.unwrap(), "game-1", "a new player by the old certificates");
    assert_eq!(certificates(), had);

    fs::remove_file(data.join("mesh-ca.new")).unwrap();
    wait_until("both have certificates of the new authority", LIMIT, || {
        let now = certificates();
        held(&mesh) == 0 && now.iter().zip(&had).all(|(now, had)| now != had)
    });
    until_lands(players, game(4, 1), Some("game-1"), Instant::now()).await;
    stop.send_replace(true);
    assert!(session.await.unwrap() > 10, "the session went on through all of it");
}
