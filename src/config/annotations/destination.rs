//! `destination`: services of registries that a route goes to, one per line as `[<weight>%] [http://|https://]<host>[:port]
//! [subset]`; the weight defaults to 100 and counts relative to the sum (Higress `annotations/destination.go`).

use super::Annotations;

/// One line of the annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Target {
    pub host: String,
    pub port: Option<u16>,
    pub weight: u32,
    pub tls: Option<bool>,
}

pub(super) fn read(annotations: &Annotations<'_>) -> Option<Vec<Target>> {
    let (key, text) = annotations.higress("destination")?;
    let mut targets = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match parse_line(line) {
            Ok((target, subset)) => {
                if let Some(subset) = subset {
                    annotations.warn(
                        &key,
                        format!("the subset `{subset}` has no effect: endpoints have no labels here, so all of them are used"),
                    );
                }
                targets.push(target);
            }
            Err(message) => {
                annotations.error(&key, format!("\"{}\": {message}", line.trim()));
                return Some(Vec::new());
            }
        }
    }
    if targets.is_empty() {
        annotations.error(&key, "names no service");
    } else if targets.iter().all(|target| target.weight == 0) {
        annotations.error(&key, "gives no service a weight above 0%");
        targets.clear();
    }
    Some(targets)
}

fn parse_line(line: &str) -> Result<(Target, Option<&str>), String> {
    let mut words = line.split_whitespace().peekable();
    let mut weight = 100;
    if let Some(percent) = words.peek().and_then(|word| word.strip_suffix('%')) {
        weight = percent.parse().map_err(|_| format!("`{percent}%` is not a weight"))?;
        words.next();
    }
    let address = words.next().ok_or("names no service")?;
    let (tls, address) = match address.split_once("://") {
        None => (None, address),
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some((scheme, _)) => return Err(format!("the protocol `{scheme}` is not http or https")),
    };
    let subset = words.next();
    if let Some(extra) = words.next() {
        return Err(format!("`{extra}` is one word too many"));
    }
    // A host may contain colons itself (ZooKeeper's `providers:…`), so only a port that is one is cut off.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port @ 1..) => (host, Some(port)),
            _ => (address, None),
        },
        None => (address, None),
    };
    if host.is_empty() {
        return Err("names no service".to_owned());
    }
    Ok((Target { host: host.to_owned(), port, weight, tls }, subset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let target = |host: &str, port, weight, tls| Target { host: host.to_owned(), port, weight, tls };
        for (line, expected, subset) in [
            ("a.static", target("a.static", None, 100, None), None),
            ("  30%  a.dns:443  ", target("a.dns", Some(443), 30, None), None),
            ("0% https://a.dns:8443 v1", target("a.dns", Some(8443), 0, Some(true)), Some("v1")),
            ("http://a.dns", target("a.dns", None, 100, Some(false)), None),
            ("providers:com.Api:1.0.0:", target("providers:com.Api:1.0.0:", None, 100, None), None),
            ("a.dns:0", target("a.dns:0", None, 100, None), None),
        ] {
            assert_eq!(parse_line(line), Ok((expected, subset)), "{line}");
        }
        for line in ["50%", "-1% a", "1.5% a", "ftp://a", "a v1 extra", "https://", "https://:443"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }
}
