//! The xDS conformance suite against a real control plane.
//!
//! What the statements say of proxies is left to real Envoys: `live_sessions` shows that changes of filters and
//! clusters spare connections (25), `edges` that a proxy that asks in its order (2), and repeats itself in state of
//! the world (8), gets all that it needs.

mod realmgate;

use std::thread;

use realmgate_tests::conformance::{Service, Suite, Variant, scripts};
use tokio::runtime::Handle;

use realmgate::Realmgate;

/// The services under test.
const SERVICES: &[Service] = &Service::ALL;

/// A test for each script. Its variants go side by side on control planes of their own, since half of the time is
/// waiting.
macro_rules! conformance {
    ($($module:ident { $($script:ident)* })*) => {$(
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $script() {
                    let runtime = &Handle::current();
                    thread::scope(|scope| {
                        for variant in Variant::BOTH {
                            scope.spawn(move || {
                                let subject = Realmgate::default();
                                let suite =
                                    Suite { subject: &subject, services: SERVICES, variants: &[variant] };
                                runtime.block_on(scripts::$module::$script(&suite));
                            });
                        }
                    });
                }
            )*
        }
    )*};
}

conformance! {
    // First, since it takes longest.
    bad_input {
        a_stream_that_says_nothing_ends
        a_client_that_never_reads_delays_nobody
        a_client_that_refuses_everything_is_no_loop
        a_stream_without_a_node_is_refused
        foreign_nonces_answer_nothing
        large_nodes_are_served_and_larger_requests_refused
        more_names_than_allowed_end_the_stream
    }
    streams {
        s01_the_node_comes_with_the_first_request_alone
        s02_a_starting_proxy_gets_everything_in_its_order
        s03_nonces_belong_to_a_type
        s03_nonces_belong_to_a_stream
        s03_a_reconnect_is_told_what_changed_since
        s03_a_nonce_does_not_outlive_its_stream
    }
    sotw {
        s04_a_stale_nonce_gets_no_answer
        s05_clusters_and_listeners_carry_the_full_state
        s05_absent_endpoints_and_filters_stay_asked_for
        s06_added_names_are_sent_even_if_unchanged
        s08_endpoints_are_sent_again_for_a_changed_cluster
    }
    wildcard {
        s07_an_empty_first_request_is_everything
        s07_no_names_after_names_are_nothing
        s07_the_wildcard_comes_and_goes_beside_names
        s07_delta_names_leave_the_legacy_wildcard
        s07_other_types_are_asked_for_by_name
    }
    delta {
        s09_subscriptions_count_even_with_a_stale_nonce
        s10_a_name_asked_for_again_is_sent_again
        s11_an_absent_name_is_answered_and_stays_asked_for
        s12_a_name_dropped_under_the_wildcard_is_answered
        s12_unknown_unsubscribes_are_ignored
        s12_a_dropped_name_is_not_sent
        s13_a_reconnect_gets_only_the_differences
        s13_a_proxy_that_reconnects_gets_only_the_differences
    }
    order {
        s14_endpoints_follow_a_changed_cluster_at_once
        s14_endpoints_of_a_new_cluster_do_not_wait_for_its_acknowledgement
        s15_endpoints_are_not_taken_from_a_cluster_that_is_there
        s16_filter_configuration_is_never_removed
        s22_make_before_break
        s22_a_reconnect_gets_filters_after_it_asked_for_clusters
        s22_changes_that_never_rest_do_not_hold_filters_back
        s22_a_cluster_stays_until_what_named_it_is_acknowledged
        s22_the_first_answers_come_in_order
    }
    refusal {
        s17_a_refusal_is_the_error_and_not_the_version
        s17_nothing_that_names_a_refused_cluster_follows_it
        s18_a_refusal_is_about_one_resource
        s18_the_others_of_a_refused_response_are_there
        s18_a_good_cluster_is_named_once_the_bad_one_is_cured
        s19_a_refused_payload_is_never_sent_again
        s19_a_refusal_without_a_name_is_no_loop_either
    }
    secrets {
        s26_a_secret_is_sent_to_who_names_it
        s26_no_wildcard_brings_secrets
        s13_a_reconnect_gets_no_secret_that_it_has
    }
    content {
        s20_no_name_is_twice_in_a_response
        s21_names_are_those_inside
        s23_nothing_is_sent_when_nothing_changed
        s24_what_is_no_heartbeat_has_a_body
        s25_a_filter_changes_by_itself
        s25_the_filter_of_a_new_listener_is_sent_when_asked_for
        s26_other_types_do_not_end_the_stream
        s26_a_service_of_one_type_needs_no_type
        s27_load_reports_are_taken_or_refused_clearly
    }
}
