//! Registries in memory, watched over a clock that does not tick by itself.

use std::collections::HashMap;

use base64::Engine;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::*;
use crate::base::secret::Secret;
use crate::config::model::{NacosApi, RegistryKind, VirtualPorts};
use crate::discovery::testing::{MockRegistry, Recorder, registry, until};

fn directory(mock: &Arc<MockRegistry>) -> (Arc<Directory>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let directory = Directory::new(mock.clone(), recorder.clone(), Tasks::new(Handle::current()));
    (Arc::new(directory), recorder)
}

fn hosts(directory: &Directory) -> Vec<(String, u16)> {
    let services = directory.discovered().services;
    services.iter().map(|service| (service.host.clone(), service.ports[0].number)).collect()
}

fn consul() -> RegistryKind {
    RegistryKind::Consul { datacenter: "dc_1".into(), tag: Some("edge".into()), token: Some(Secret::new("token-1")) }
}

fn healthy(addresses: &[(&str, u16)]) -> Value {
    let entry = |(ip, port): &(&str, u16)| {
        json!({"Node": {"Address": "10.9.9.9"}, "Service": {"Address": ip, "Port": port, "Meta": {"protocol": "http2"}},
            "Checks": [{"Status": "passing"}]})
    };
    addresses.iter().map(entry).collect()
}

#[tokio::test(start_paused = true)]
async fn consul_tells_of_addresses_at_once_and_of_services_too() {
    let mock = MockRegistry::new(&[
        ("/v1/catalog/services", json!({"my_shop": ["Edge", "v1"], "internal": ["v1"]})),
        ("/v1/health/service/my_shop", healthy(&[("10.0.0.2", 80), ("", 80)])),
    ]);
    let (directory, recorder) = directory(&mock);
    directory.follow(&[registry("c", consul())]);
    assert!(directory.is_partial());
    directory.first_answers(Duration::from_secs(60)).await;
    assert!(!directory.is_partial());
    assert_eq!(hosts(&directory), [("my-shop.dc-1.consul".to_owned(), 80)]);
    assert_eq!(recorder.of("my-shop.dc-1.consul", 80), ["10.0.0.2:80", "10.9.9.9:80"]);
    let service = &directory.discovered().services[0];
    assert_eq!((service.ports[0].protocol, &service.ports[0].endpoints), (Protocol::Http2, &Endpoints::Discovered));
    assert_eq!(recorder.n_changes(), 1);
    assert_eq!(mock.asked.lock()[0].headers.last().unwrap(), &("x-consul-token", "token-1".to_owned()));
    assert!(mock.asked.lock()[0].url.contains("dc=dc_1"), "{:?}", mock.asked.lock()[0]);
    assert_eq!(mock.n_asked("/v1/health/service/internal"), 0, "the tag is a condition");

    mock.change(&[("/v1/health/service/my_shop", healthy(&[("10.0.0.3", 80)]))]);
    until("the new address", || recorder.of("my-shop.dc-1.consul", 80) == ["10.0.0.3:80"]).await;
    assert_eq!(recorder.n_changes(), 1, "addresses alone need no new configuration");

    mock.change(&[
        ("/v1/catalog/services", json!({"my_shop": ["edge"], "new": ["edge"]})),
        ("/v1/health/service/new", healthy(&[("10.0.0.4", 90)])),
    ]);
    until("the new service", || hosts(&directory).contains(&("new.dc-1.consul".to_owned(), 90))).await;
    assert_eq!(recorder.n_changes(), 2);
    let n_asked = mock.asked.lock().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mock.asked.lock().len(), n_asked, "without news nothing is asked again");
}

/// As in Higress: an answer without instances takes none away, be it that their checks fail, that they are gone, or that the token sees them no more.
#[tokio::test(start_paused = true)]
async fn the_last_instances_of_a_service_stay_until_there_are_others() {
    let health = "/v1/health/service/shop";
    let mock = MockRegistry::new(&[
        ("/v1/catalog/services", json!({"shop": ["edge"]})),
        (health, healthy(&[("10.0.0.2", 80), ("10.0.0.3", 80)])),
    ]);
    let (directory, recorder) = directory(&mock);
    let first = registry("c", consul());
    directory.follow(std::slice::from_ref(&first));
    directory.first_answers(Duration::from_secs(60)).await;
    mock.change(&[(health, healthy(&[("10.0.0.3", 80)]))]);
    until("the loss of one", || recorder.of("shop.dc-1.consul", 80) == ["10.0.0.3:80"]).await;
    let kept = || directory.status()[0].kept.clone();
    mock.change(&[(health, json!([]))]);
    until("the loss of the other", || kept() == ["shop.dc-1.consul"]).await;
    assert_eq!(recorder.of("shop.dc-1.consul", 80), ["10.0.0.3:80"]);
    mock.change(&[("/v1/catalog/services", json!({"other": ["edge"]})), ("/v1/health/service/other", json!([]))]);
    until("its going", || mock.n_asked("/v1/health/service/other") > 0).await;
    assert_eq!(
        (kept(), recorder.of("shop.dc-1.consul", 80)),
        (vec!["shop.dc-1.consul".into()], vec!["10.0.0.3:80".into()])
    );
    mock.change(&[("/v1/catalog/services", json!({"shop": ["edge"]})), (health, healthy(&[("10.0.0.4", 80)]))]);
    until("its return", || recorder.of("shop.dc-1.consul", 80) == ["10.0.0.4:80"] && kept().is_empty()).await;
    // A registry that is configured otherwise begins anew.
    mock.change(&[("/v1/catalog/services", json!({}))]);
    until("its second going", || !kept().is_empty()).await;
    let ports = VirtualPorts { default: Some(80), ..VirtualPorts::default() };
    directory.follow(&[Registry { virtual_ports: ports, ..first }]);
    until("the new watcher", || hosts(&directory).is_empty()).await;
    assert!(kept().is_empty() && recorder.of("shop.dc-1.consul", 80).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registry_says_how_it_does() {
    let mock = MockRegistry::new(&[("/eureka/apps", json!("unreachable"))]);
    let (directory, recorder) = directory(&mock);
    directory.follow(&[registry("e", RegistryKind::Eureka)]);
    let status = || directory.status().pop().unwrap();
    until("the failure", || status().error.is_some()).await;
    assert_eq!((status().last_answer_secs_ago, status().services, recorder.up("e")), (None, 0, Some(false)));
    mock.change(&[("/eureka/apps", eureka_apps("SHOP", "10.0.0.1"))]);
    until("the answer", || status().error.is_none()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((status().last_answer_secs_ago, status().services, recorder.up("e")), (Some(2), 1, Some(true)));
    assert_eq!((status().name.as_str(), status().kind), ("e", "eureka"));
    directory.follow(&[]);
    assert!(directory.status().is_empty() && recorder.up("e").is_none());
}

fn nacos(api: NacosApi, user: Option<(String, Secret)>) -> RegistryKind {
    RegistryKind::Nacos {
        api,
        namespace_id: "ns-id".into(),
        namespace: "my_ns".into(),
        groups: vec!["DEFAULT_GROUP".into()],
        refresh: Duration::from_secs(30),
        user,
        signer: None,
    }
}

/// One service that could not be asked for took all of them down.
#[tokio::test(start_paused = true)]
async fn a_service_that_consul_does_not_list_costs_no_other() {
    let mock = MockRegistry::new(&[
        ("/v1/catalog/services", json!({"shop": ["edge"], "stock": ["edge"]})),
        ("/v1/health/service/shop", healthy(&[("10.0.0.2", 80)])),
        ("/v1/health/service/stock", json!("unreachable")),
    ]);
    let (directory, recorder) = directory(&mock);
    directory.follow(&[registry("c", consul())]);
    until("the one that answers", || hosts(&directory) == [("shop.dc-1.consul".to_owned(), 80)]).await;
    mock.change(&[("/v1/health/service/stock", healthy(&[("10.0.0.3", 90)]))]);
    until("the other", || recorder.of("stock.dc-1.consul", 90) == ["10.0.0.3:90"]).await;
    // It fails again and keeps what it had; the first one moves to another port meanwhile.
    mock.change(&[
        ("/v1/health/service/stock", json!("unreachable")),
        ("/v1/health/service/shop", healthy(&[("10.0.0.4", 81)])),
    ]);
    until("the new port", || recorder.of("shop.dc-1.consul", 81) == ["10.0.0.4:81"]).await;
    assert_eq!(recorder.of("shop.dc-1.consul", 80), ["10.0.0.4:81"], "the configuration that is still in force");
    assert_eq!(recorder.of("stock.dc-1.consul", 90), ["10.0.0.3:90"]);
}

#[tokio::test(start_paused = true)]
async fn nacos_is_logged_in_to_and_its_answers_are_kept_as_long_as_they_say() {
    let hosts_of = |ip: &str| {
        json!({"cacheMillis": 4000, "hosts": [
            {"ip": ip, "port": 8080, "healthy": true, "enabled": true, "metadata": {}},
            {"ip": "10.0.0.8", "port": 8080, "healthy": false}, {"ip": "10.0.0.9", "port": 8080, "enabled": false}]})
    };
    let mock = MockRegistry::new(&[
        ("/nacos/v1/auth/login", json!({"accessToken": "t-1", "tokenTtl": 18000})),
        ("/nacos/v1/ns/service/list", json!({"count": 2, "doms": ["my_svc", "consumers:x"]})),
        ("/nacos/v1/ns/instance/list", hosts_of("10.0.0.1")),
    ]);
    let (directory, recorder) = directory(&mock);
    directory.follow(&[registry("n", nacos(NacosApi::V2, Some(("me".into(), Secret::new("p&w")))))]);
    directory.first_answers(Duration::from_secs(60)).await;
    let host = "my_svc.DEFAULT-GROUP.my-ns.nacos";
    assert_eq!(hosts(&directory), [(host.to_owned(), 8080)]);
    assert_eq!(recorder.of(host, 8080), ["10.0.0.1:8080"]);
    let asked = mock.asked.lock().clone();
    assert_eq!((asked[0].method, asked[0].body.as_str()), ("POST", "username=me&password=p%26w"));
    assert!(asked[1].url.ends_with("namespaceId=ns-id&groupName=DEFAULT_GROUP&pageNo=1&pageSize=500&accessToken=t-1"));
    mock.change(&[("/nacos/v1/ns/instance/list", hosts_of("10.0.0.2"))]);
    tokio::time::sleep(Duration::from_millis(4100)).await;
    assert_eq!(recorder.of(host, 8080), ["10.0.0.2:8080"]);
    assert_eq!(mock.n_asked("/nacos/v1/ns/service/list"), 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(mock.n_asked("/nacos/v1/ns/service/list"), 2, "services are listed at the configured interval");
    assert_eq!((mock.n_asked("/nacos/v1/auth/login"), recorder.n_changes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn questions_to_hosted_nacos_are_signed() {
    let mock = MockRegistry::new(&[
        ("/nacos/v1/ns/service/list", json!({"count": 1, "doms": ["svc"]})),
        ("/nacos/v1/ns/instance/list", json!({"hosts": []})),
    ]);
    let (directory, _) = directory(&mock);
    let mut kind = nacos(NacosApi::V2, None);
    if let RegistryKind::Nacos { signer, .. } = &mut kind {
        *signer = Some(("my-key".into(), Secret::new("my-secret")));
    }
    directory.follow(&[registry("n", kind)]);
    directory.first_answers(Duration::from_secs(60)).await;
    let asked = mock.asked.lock().clone();
    for (ask, about) in asked.iter().zip(["", "@@DEFAULT_GROUP@@svc"]) {
        let query: HashMap<String, String> =
            form_urlencoded::parse(ask.url.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
        let data = &query["data"];
        let millis = data.strip_suffix(about).unwrap();
        assert!(millis.parse::<u64>().is_ok(), "{data}");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"my-secret");
        let signature = base64::engine::general_purpose::STANDARD.decode(&query["signature"]).unwrap();
        assert!(ring::hmac::verify(&key, data.as_bytes(), &signature).is_ok());
        assert_eq!(query["ak"], "my-key");
    }
    assert_eq!(asked.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nacos_3_has_paths_and_an_envelope_of_its_own() {
    let mock = MockRegistry::new(&[
        (
            "/nacos/v3/admin/ns/service/list",
            json!({"code": 0, "data": {"totalCount": 2, "pageItems": [{"name": "a", "groupName": "DEFAULT_GROUP"},
                {"name": "foreign", "groupName": "XDEFAULT_GROUP"}]}}),
        ),
        (
            "/nacos/v3/client/ns/instance/list",
            json!({"code": 0, "data": [{"ip": "10.0.0.1", "port": 80, "healthy": true}]}),
        ),
    ]);
    let (directory, _) = directory(&mock);
    directory.follow(&[registry("n", nacos(NacosApi::V3, None))]);
    directory.first_answers(Duration::from_secs(60)).await;
    assert_eq!(hosts(&directory), [("a.DEFAULT-GROUP.my-ns.nacos".to_owned(), 80)]);
    assert!(mock.asked.lock()[0].url.contains("groupNameParam=DEFAULT_GROUP"));
}

fn eureka_apps(name: &str, ip: &str) -> Value {
    let instance = json!({"ipAddr": ip, "status": "UP", "port": {"$": 8080}});
    json!({"applications": {"application": {"name": name, "instance": instance}}})
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_fails_keeps_what_it_said_and_is_asked_again_after_a_pause() {
    const APPS: &str = "/eureka/apps";
    let mock = MockRegistry::new(&[(APPS, json!("unreachable"))]);
    let (directory, recorder) = directory(&mock);
    directory.follow(&[registry("e", RegistryKind::Eureka)]);
    directory.first_answers(Duration::from_millis(2500)).await;
    assert!(directory.is_partial());
    assert_eq!(mock.n_asked(APPS), 2, "after one second, then after two more");
    mock.change(&[(APPS, eureka_apps("SHOP", "10.0.0.1"))]);
    directory.first_answers(Duration::from_secs(60)).await;
    assert_eq!(recorder.of("SHOP.eureka", 8080), ["10.0.0.1:8080"]);
    mock.change(&[(APPS, json!("unreachable"))]);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(recorder.of("SHOP.eureka", 8080), ["10.0.0.1:8080"]);
    assert_eq!(recorder.n_changes(), 1);
    let n_asked = mock.n_asked(APPS);
    assert!((12..=16).contains(&n_asked), "the pauses grow to half a minute: {n_asked}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_registry_is_asked_anew_and_one_that_is_gone_takes_its_services_along() {
    const APPS: &str = "/eureka/apps";
    let mock = MockRegistry::new(&[(APPS, eureka_apps("SHOP", "10.0.0.1"))]);
    let (directory, recorder) = directory(&mock);
    let first = registry("e", RegistryKind::Eureka);
    directory.follow(std::slice::from_ref(&first));
    directory.first_answers(Duration::from_secs(60)).await;
    directory.follow(std::slice::from_ref(&first));
    assert_eq!(mock.n_asked(APPS), 1, "the same registry goes on");

    mock.change(&[(APPS, eureka_apps("SHOP", "10.0.0.2"))]);
    let ports = VirtualPorts { default: Some(80), ..VirtualPorts::default() };
    let second = Registry { virtual_ports: ports, ..first.clone() };
    directory.follow(std::slice::from_ref(&second));
    assert_eq!(hosts(&directory), [("SHOP.eureka".to_owned(), 8080)], "until the new watcher knows better");
    until("the virtual port", || hosts(&directory) == [("SHOP.eureka".to_owned(), 80)]).await;
    assert_eq!(recorder.of("SHOP.eureka", 80), ["10.0.0.2:8080"]);

    // Of two registries with the same service the first counts.
    directory.follow(&[second, registry("other", RegistryKind::Eureka)]);
    directory.first_answers(Duration::from_secs(60)).await;
    until("the second registry", || mock.n_asked(APPS) == 3).await;
    assert_eq!(hosts(&directory), [("SHOP.eureka".to_owned(), 80)]);
    let n_changes = recorder.n_changes();
    directory.follow(&[]);
    assert_eq!((hosts(&directory), recorder.n_changes()), (vec![], n_changes + 1));
    assert_eq!(recorder.of("SHOP.eureka", 80), Vec::<String>::new());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(mock.n_asked(APPS), 3, "nobody asks any more");
}
