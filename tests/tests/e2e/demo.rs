//! The demo, as `make run` starts it.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};

use realmgate_tests::address::Address;
use realmgate_tests::{Stopwatch, TestNet};

const FLAGS: [&str; 7] = ["--listen", "--world-1", "--world-2", "--api", "--xds", "--admin", "--health"];

fn run(net: &TestNet, addresses: &[SocketAddr]) -> Output {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_realmgate-demo"));
    for (flag, address) in FLAGS.iter().zip(addresses) {
        demo.args([flag, &address.to_string()[..]]);
    }
    demo.arg("--dir").arg(net.dir()).args(["--frames", "8", "--every-ms", "5"]).output().unwrap()
}

fn addresses(net: &TestNet) -> Vec<SocketAddr> {
    (7001..).map(|port| net.at(port)).take(FLAGS.len()).collect()
}

#[test]
fn shows_where_each_frame_went() {
    let net = TestNet::new();
    let output = run(&net, &addresses(&net));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let landed: Vec<_> = text.lines().filter(|line| line.contains("  ->  ")).collect();
    assert_eq!(landed.len(), 8, "{text}");
    for line in landed {
        let home =
            if line.contains("world   1 ") || line.contains("world  42 ") { "world-1" } else { "world-2" };
        assert!(line.contains(home), "{line}");
    }
    assert!(text.contains("policy apply"), "{text}");
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left() {
    let net = TestNet::new();
    let addresses = addresses(&net);
    let _taken = TcpListener::bind(addresses[3]).unwrap();
    let output = run(&net, &addresses);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&addresses[3].to_string()) && error.contains("--api"), "{error}");
}

#[test]
fn a_player_of_a_datacenter_that_dies_is_served_by_the_other() {
    let (net, azure) = (TestNet::new(), Address::claim());
    let mut demo = Command::new(env!("CARGO_BIN_EXE_realmgate-mesh-demo"));
    demo.args(["--aws", &net.ip().to_string(), "--azure", &azure.ip().to_string(), "--dir"]).arg(net.dir());
    let watch = Stopwatch::start();
    let output = demo.args(["--rounds", "1", "--every-ms", "300"]).stdin(Stdio::null()).output().unwrap();
    let disturbed = watch.elapsed().saturating_sub(watch.undisturbed());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, rest) = text.split_once("served again after ").expect(&text);
    let seconds: f64 = rest.split_once(" s").unwrap().0.parse().unwrap();
    println!("{text}");
    assert!(seconds < 5.0 + disturbed.as_secs_f64(), "{text}");
    assert!(rest.contains("-> aws-1"), "nobody goes back: {text}");
    let (_, let_in) = rest.split_once("the sidecar of azure has let in ").expect(&text);
    assert!(!let_in.starts_with("0 "), "players passed the sidecar by: {text}");
}
