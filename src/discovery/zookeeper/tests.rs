//! Against a server in memory, over TCP: clock and connections are real.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::mock::Tree;
use super::*;
use crate::base::tasks::Tasks;
use crate::config::model::{Protocol, RegistryKind};
use crate::discovery::Directory;
use crate::discovery::testing::{MockRegistry, Recorder, registry, until};

fn dubbo(address: &str, parameters: &str) -> String {
    let url = format!("dubbo://{address}/com.a.Demo?dubbo=2.0.2{parameters}");
    crate::discovery::fetch::encode(&url)
}

fn spring(address: &str, port: u16, metadata: &str) -> String {
    format!(r#"{{"name":"shop","id":"1","address":"{address}","port":{port},"payload":{{"metadata":{{{metadata}}}}}}}"#)
}

async fn follow(domain: SocketAddr, paths: &[&str]) -> (Arc<Directory>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let directory = Directory::new(MockRegistry::new(&[]), recorder.clone(), Tasks::new(Handle::current()));
    let directory = Arc::new(directory);
    let kind = RegistryKind::ZooKeeper { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    let registry = Registry { domain: domain.ip().to_string(), port: domain.port(), ..registry("z", kind) };
    directory.follow(&[registry]);
    directory.first_answers(Duration::from_secs(30)).await;
    (directory, recorder)
}

fn hosts(directory: &Directory) -> Vec<(String, u16, Protocol)> {
    let services = directory.discovered().services;
    let shown =
        services.iter().map(|service| (service.host.clone(), service.ports[0].number, service.ports[0].protocol));
    shown.filter(|(host, ..)| !host.ends_with(".zookeeper")).collect()
}

#[tokio::test]
async fn dubbo_and_spring_cloud_services_are_followed_node_by_node() {
    let tree = Tree::new(&[
        (&format!("/dubbo/com.a.Demo/providers/{}", dubbo("10.0.0.1:20880", "&version=1.0.0&group=dev")), ""),
        (&format!("/dubbo/com.a.Demo/providers/{}", dubbo("10.0.0.2:20880", "")), ""),
        (&format!("/dubbo/com.a.Demo/providers/{}", crate::discovery::fetch::encode("tri://10.0.0.3:50051/x")), ""),
        ("/dubbo/com.a.Unused/consumers", ""),
        ("/dubbo/config/a", ""),
        ("/services/shop/1", &spring("10.0.0.4", 8071, r#""protocol":"http2""#)),
        ("/services/shop/2", "no instance"),
        ("/own/path/stock/1", &spring("10.0.0.5", 8072, "")),
    ]);
    let (address, _serving) = tree.serve("127.0.0.1:0").await;
    let (directory, recorder) = follow(address, &["/own/path", "/not/there"]).await;
    assert_eq!(
        hosts(&directory),
        [
            ("providers:com.a.Demo:0.0.0:".to_owned(), 20880, Protocol::Dubbo),
            ("providers:com.a.Demo:1.0.0:dev".to_owned(), 20880, Protocol::Dubbo),
            ("shop.services".to_owned(), 8071, Protocol::Http2),
            ("stock.own-path".to_owned(), 8072, Protocol::Http1),
        ]
    );
    assert_eq!(recorder.of("providers:com.a.Demo:1.0.0:dev", 20880), ["10.0.0.1:20880"]);
    assert_eq!(recorder.of("shop.services.zookeeper", 8071), ["10.0.0.4:8071"], "by the name Higress generates, too");
    assert_eq!(recorder.n_changes(), 1);

    tree.set("/services/shop/3", &spring("10.0.0.6", 8071, ""));
    until("the new instance", || recorder.of("shop.services", 8071) == ["10.0.0.4:8071", "10.0.0.6:8071"]).await;
    tree.set("/services/shop/3", &spring("10.0.0.6", 8071, r#""instance_status":"OUT_OF_SERVICE""#));
    until("its leave", || recorder.of("shop.services", 8071) == ["10.0.0.4:8071"]).await;
    tree.remove("/services/shop/1");
    let is_kept = || directory.status()[0].kept.iter().any(|host| host == "shop.services");
    until("the loss", is_kept).await;
    assert_eq!(recorder.of("shop.services", 8071), ["10.0.0.4:8071"], "until there are others");
    assert_eq!(recorder.n_changes(), 1, "addresses alone need no new configuration");

    // A service that goes and comes back is read again, once.
    for ip in ["10.0.0.7", "10.0.0.8"] {
        tree.remove("/services/shop");
        until("the service's end", is_kept).await;
        tree.set("/services/shop/1", &spring(ip, 8071, ""));
        until("its return", || recorder.of("shop.services", 8071) == [format!("{ip}:8071")]).await;
    }
    // Folders that were not there are noticed when they come.
    tree.set("/not/there/late/1", &spring("10.0.0.9", 80, ""));
    until("the late folder", || recorder.of("late.not-there", 80) == ["10.0.0.9:80"]).await;
    tree.set(&format!("/dubbo/com.a.Unused/providers/{}", dubbo("[fd00::1]:20880", "")), "");
    until("the first provider", || recorder.of("providers:com.a.Unused:0.0.0:", 20880) == ["[fd00::1]:20880"]).await;
}

#[tokio::test]
async fn a_server_that_is_gone_leaves_what_it_said_and_is_asked_again() {
    let tree = Tree::new(&[("/services/shop/1", &spring("10.0.0.1", 80, ""))]);
    let (address, serving) = tree.serve("127.0.0.1:0").await;
    let (directory, recorder) = follow(address, &[]).await;
    assert_eq!(recorder.of("shop.services", 80), ["10.0.0.1:80"]);
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    tree.set("/services/shop/1", &spring("10.0.0.2", 80, ""));
    assert_eq!((recorder.of("shop.services", 80), hosts(&directory).len()), (vec!["10.0.0.1:80".to_owned()], 1));
    // The same port again; the session is not known there any more.
    let (_, _serving) = tree.serve(&address.to_string()).await;
    until("the new state", || recorder.of("shop.services", 80) == ["10.0.0.2:80"]).await;
    assert_eq!(recorder.n_changes(), 1);
}

#[test]
fn names_of_nodes_and_their_data() {
    let host = |node: &str| provider("com.a.Demo", node).map(|(host, instance)| (host, instance.address.to_string()));
    let expected = ("providers:com.a.Demo:1.0.0:g".to_owned(), "10.0.0.1:20880".to_owned());
    assert_eq!(host(&dubbo("10.0.0.1:20880", "&group=g&version=1.0.0")), Some(expected.clone()));
    assert_eq!(host("dubbo://10.0.0.1:20880?version=1.0.0&group=g"), Some(expected));
    for node in
        ["", "dubbo%3A%2F%2F10.0.0.1", "dubbo://name:20880/x", "dubbo://10.0.0.1:x/x", "rest://10.0.0.1:80/x", "%ff"]
    {
        assert_eq!(host(node), None, "{node}");
    }
    assert_eq!((spring_host("", "shop"), spring_host("/a/b", "shop")), ("shop".to_owned(), "shop.a-b".to_owned()));
    assert_eq!(instance(spring("10.0.0.1", 0, "").as_bytes()), None);
    assert_eq!(instance(b"[]"), None);
}
