//! What clients will refuse of the certificates that are served.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::Leaf;
use super::keeper::renewal_window;
use crate::config::model::{AutomaticHttps, Certificate};
use crate::config::{Problem, Severity};

/// Certificates that have less than this left are spoken of.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * DAY_SECS);
const DAY_SECS: u64 = 24 * 60 * 60;

/// Warnings of certificates that have ended or soon will, and of hosts that theirs does not name. What is ordered here is renewed in
/// time, so that it is spoken of only when that is overdue.
pub fn certificate_faults(
    certificates: &[Certificate],
    ordered: Option<&AutomaticHttps>,
    now: SystemTime,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for Certificate { hosts, secret, chain, .. } in certificates {
        let Some(leaf) = Leaf::of(chain) else { continue };
        let mut warn = |message: String, hint: &str| {
            let problem = Problem::error(secret, "data[tls.crt]", message);
            problems.push(Problem { severity: Severity::Warning, hint: Some(hint.to_owned()), ..problem });
        };
        let order = ordered.filter(|ordered| ordered.orders.iter().any(|order| order.secret == *secret));
        let enough = order.map_or(leaf.lifetime / 3, |ordered| renewal_window(leaf.lifetime, ordered.renew_before) / 2);
        let enough = enough.min(EXPIRY_WARNING);
        let left = leaf.time_left(now);
        if left < enough && seen.insert(secret) {
            let end = match left.as_secs() / DAY_SECS {
                _ if left.is_zero() => "has expired".to_owned(),
                0 => "expires today".to_owned(),
                days => format!("expires in {days} days"),
            };
            let hint = match order {
                Some(_) => "it is ordered again and again; the log says why there is no new one",
                None => "renew it; clients refuse what has expired",
            };
            warn(format!("the certificate of {} {end}", hosts.join(", ")), hint);
        }
        let is_name = |host: &&String| *host != "*" && host.parse::<IpAddr>().is_err();
        for host in hosts.iter().filter(is_name).filter(|host| !leaf.is_for(host)) {
            let names = if leaf.names.is_empty() { "no host".to_owned() } else { leaf.names.join(", ") };
            warn(
                format!("the certificate of {host} is for {names}"),
                "clients refuse it; only its subjectAltName counts",
            );
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::base::secret::Secret;
    use crate::config::model::{CertificateOrder, ObjectRef, TlsOptions};

    fn secret(name: &str) -> ObjectRef {
        ObjectRef {
            kind: "Secret".into(),
            namespace: "higress-system".into(),
            name: name.into(),
            file: format!("secrets/{name}.yaml").into(),
        }
    }

    fn certificate(name: &str, host: &str, end: (i32, u8, u8)) -> Certificate {
        let mut params = CertificateParams::new(vec!["a.com".to_owned(), "*.b.com".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2025, 11, 1);
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        let chain = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let (hosts, key, options) = (vec![host.to_owned()], Secret::default(), TlsOptions::default());
        Certificate { hosts, secret: secret(name), chain, key, options }
    }

    fn lines(certificates: &[Certificate], ordered: Option<&AutomaticHttps>) -> String {
        // 1 February 2026.
        let now = UNIX_EPOCH + Duration::from_secs(1_769_904_000);
        certificate_faults(certificates, ordered, now).iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn what_clients_refuse_is_named_before_they_do() {
        let certificates = [
            certificate("good", "a.com", (2026, 3, 1)),
            certificate("soon", "a.com", (2026, 2, 10)),
            certificate("gone", "a.com", (2026, 1, 31)),
            certificate("gone", "a.com", (2026, 1, 31)),
            certificate("any", "*", (2026, 3, 1)),
            certificate("wild", "x.b.com", (2026, 3, 1)),
            certificate("wild", "*.b.com", (2026, 3, 1)),
            certificate("other", "x.y.b.com", (2026, 3, 1)),
        ];
        let expected = "warning: secrets/soon.yaml: Secret higress-system/soon: data[tls.crt]: the certificate of a.com expires in 9 days \
             (renew it; clients refuse what has expired)\n\
             warning: secrets/gone.yaml: Secret higress-system/gone: data[tls.crt]: the certificate of a.com has expired \
             (renew it; clients refuse what has expired)\n\
             warning: secrets/other.yaml: Secret higress-system/other: data[tls.crt]: the certificate of x.y.b.com is for a.com, *.b.com \
             (clients refuse it; only its subjectAltName counts)\n";
        assert_eq!(lines(&certificates, None), expected);
    }

    #[test]
    fn what_is_ordered_here_is_spoken_of_when_its_renewal_is_overdue() {
        let order = CertificateOrder { domain: "a.com".into(), secret: secret("own"), chain: None };
        let days = |days: u64| Duration::from_secs(days * DAY_SECS);
        let ordered = AutomaticHttps { email: None, renew_before: days(8), orders: vec![order] };
        // Of 99 days nine: half of them are more than three days and less than five.
        assert_eq!(lines(&[certificate("own", "a.com", (2026, 2, 6))], Some(&ordered)), "");
        assert!(lines(&[certificate("own", "a.com", (2026, 2, 4))], Some(&ordered)).contains("again and again"));
    }
}
