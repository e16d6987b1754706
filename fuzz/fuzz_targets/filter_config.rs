//! The plugin configuration: any bytes are refused or make a router that finds what a walk over the routes
//! finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realmgate_filter::{FilterConfig, Router};
use realmgate_wire::ServerId;

fuzz_target!(|json: &[u8]| {
    let Ok(config) = FilterConfig::from_json(json) else { return };
    let Ok(router) = Router::new(&config) else { return };
    // Numbers at the bounds of the routes' ranges, taken from the text itself.
    let text = String::from_utf8_lossy(json);
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u16>().ok());
    let worlds = numbers.take(16).flat_map(|n| [n.saturating_sub(1), n, n.saturating_add(1)]);
    for world in worlds.chain([0]).map(|world| world & ServerId::MAX_WORLD) {
        for route in config.routes.iter().take(16) {
            for instance in [0, 1, 5, 255] {
                let model = config.routes.iter().position(|other| {
                    other.server_type == route.server_type
                        && other.worlds.contains(world)
                        && other.instances.contains(u16::from(instance))
                });
                let id = ServerId::new(route.server_type, world, instance, false);
                let decision = router.decide(id, Some("192.0.2.1"), || u64::from(world) << 50);
                assert_eq!(decision.map(|decision| decision.route), model);
            }
        }
    }
    let again = format!("{:?}", Router::new(&config).expect("valid"));
    assert_eq!(format!("{router:?}"), again);
});
