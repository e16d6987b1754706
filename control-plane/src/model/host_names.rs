//! Host names that mean the machine itself, or its cloud, wherever they are resolved.

/// Names that mean loopback by RFC 6761, or in the hosts file of one Linux or another.
pub(super) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let host = ["", "4", "6"]
        .iter()
        .find_map(|family| host.strip_suffix(&format!(".localdomain{family}")))
        .unwrap_or(&host);
    ["localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"].contains(&host)
        || host.ends_with(".localhost")
}

/// Names by which clouds answer their machines.
pub(super) fn is_of_cloud(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    ["metadata", "metadata.goog", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"]
        .contains(&host.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_loopback_or_a_cloud_are_known() {
        for host in ["localhost", "LOCALHOST4", "localhost6.localdomain6", "a.localhost.", "ip6-loopback"] {
            assert!(is_localhost(host), "{host}");
        }
        for host in ["metadata.google.internal", "Metadata."] {
            assert!(is_of_cloud(host), "{host}");
        }
        for host in ["localhost.example.com", "metadata.example.com", "localdomain"] {
            assert!(!is_localhost(host) && !is_of_cloud(host), "{host}");
        }
    }
}
