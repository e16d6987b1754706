//! Names that the API answers to, as a setting: separated by commas.

use serde::{Deserialize, Serialize};

use axum::http::uri::{Authority, Uri};

/// Host names without ports, and origins of pages, as `https://console.example.com`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostNames(Vec<String>);

impl HostNames {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

impl TryFrom<String> for HostNames {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(checked).collect::<Result<_, _>>().map(Self)
    }
}

fn checked(entry: &str) -> Result<String, String> {
    let is_good = if entry.contains("://") { is_origin(entry) } else { is_host(entry) };
    let form = "a host name without a port, such as realmgate.example.com, or an origin, such as https://console.example.com";
    if is_good { Ok(entry.to_owned()) } else { Err(format!("`{entry}` is not {form}")) }
}

fn is_host(entry: &str) -> bool {
    if entry.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let letters = entry.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    letters && entry.parse::<Authority>().is_ok()
}

/// As browsers write it: nothing behind the port.
fn is_origin(entry: &str) -> bool {
    let uri = entry.parse::<Uri>().ok();
    uri.and_then(|uri| {
        uri.authority().map(|authority| format!("{}://{authority}", uri.scheme_str().unwrap_or_default()))
    })
    .is_some_and(|origin| {
        origin.eq_ignore_ascii_case(entry) && entry.starts_with("http") && !entry.contains('@')
    })
}

impl From<HostNames> for String {
    fn from(names: HostNames) -> Self {
        names.0.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_origins_are_read_and_printed() {
        let read = |text: &str| HostNames::try_from(text.to_owned()).map(String::from);
        assert_eq!(read(""), Ok(String::new()));
        let several =
            "realmgate.example.com, realmgate,10.0.0.1,2001:db8::1 ,https://console.example.com:8443";
        assert_eq!(read(several), Ok(several.replace(' ', "")));
        for bad in
            ["a:80", "*.example.com", "a b", "https://a/", "https://a/b", "ftp://a", "https://u@a", "/a"]
        {
            assert!(read(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
