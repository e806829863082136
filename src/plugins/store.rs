//! Where a Redis is, as plugins with shared state write it: most in a section `redis`, the caches in a section `cache`.

use std::time::Duration;

use super::config::Fields;
use crate::stores::redis::RedisConfig;

/// What the two sections call the same.
struct Names {
    service: &'static str,
    port: &'static str,
    timeout_ms: u64,
}

const REDIS: Names = Names { service: "service_name", port: "service_port", timeout_ms: 1000 };
const CACHE: Names = Names { service: "serviceName", port: "servicePort", timeout_ms: 10_000 };

/// Reads the members of a `redis` object; `None` if they cannot be used, which has been reported then.
pub fn redis(section: &mut Fields<'_>) -> Option<RedisConfig> {
    read(section, &REDIS)
}

/// Reads those members of a `cache` object that say where its Redis is; as [`redis()`].
pub fn cache(section: &mut Fields<'_>) -> Option<RedisConfig> {
    read(section, &CACHE)
}

fn read(section: &mut Fields<'_>, names: &Names) -> Option<RedisConfig> {
    let text = |value: Option<&str>| value.filter(|text| !text.is_empty()).map(str::to_owned);
    let service = text(section.string(names.service));
    let port = section.count(names.port).filter(|port| *port != 0);
    let username = text(section.string("username"));
    let password = section.secret("password").filter(|password| !password.is_empty());
    let timeout = section.count("timeout").filter(|millis| *millis != 0).unwrap_or(names.timeout_ms);
    let database = section.count("database").unwrap_or(0);
    let Some(service) = service else {
        section.problem(names.service, "must name the service of the Redis, for example redis.dns");
        return None;
    };
    let port = port.unwrap_or(if service.ends_with(".static") { 80 } else { 6379 });
    let Ok(port) = u16::try_from(port) else {
        section.problem(names.port, format!("must be a port, found {port}"));
        return None;
    };
    let Ok(database) = i64::try_from(database) else {
        section.problem("database", format!("must be the number of a database, found {database}"));
        return None;
    };
    Some(RedisConfig { service, port, username, password, database, timeout: Duration::from_millis(timeout) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::secret::Secret;

    #[test]
    fn both_sections_say_all_of_their_redis() {
        let common = json!({"username": "u", "password": "p", "database": 3, "timeout": 250});
        let with = |more: Value| {
            let mut value = common.clone();
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            value
        };
        let expected = RedisConfig {
            service: "redis.dns".into(),
            port: 7000,
            username: Some("u".into()),
            password: Some(Secret::new("p")),
            database: 3,
            timeout: Duration::from_millis(250),
        };
        let of_plugin = with(json!({"service_name": "redis.dns", "service_port": 7000}));
        assert_eq!(redis(&mut Fields::of(&of_plugin, "redis")), Some(expected.clone()));
        let of_cache = with(json!({"serviceName": "redis.dns", "servicePort": 7000}));
        assert_eq!(cache(&mut Fields::of(&of_cache, "cache")), Some(expected));
    }

    fn read(value: &Value) -> (Option<RedisConfig>, Vec<String>) {
        let mut fields = Fields::of(value, "redis");
        let config = redis(&mut fields);
        (config, fields.finish().into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn ports_default_by_the_kind_of_service() {
        for (value, port) in [
            (json!({"service_name": "redis.dns"}), 6379),
            (json!({"service_name": "redis.static"}), 80),
            (json!({"service_name": "redis.static", "service_port": 7000}), 7000),
        ] {
            let (config, problems) = read(&value);
            assert_eq!((config.unwrap().port, problems.len()), (port, 0), "{value}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(read(&json!({"service_port": 1})).1, ["redis.service_name"]);
        let value = json!({"service_name": "r.dns", "service_port": 70000, "timeout": "1s", "db": 1});
        assert_eq!(read(&value).1, ["redis.timeout", "redis.service_port", "redis.db"]);
    }
}
