//! Tables in object storage that speaks S3: AWS, MinIO, Ceph, Garage, R2.
//!
//! Lance brings a provider of its own, with the AWS SDK and a second HTTP stack behind it, sixty crates; a bucket with keys needs
//! one. Keys come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), a role's from the
//! instance or web identity token, as everywhere in that world.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lance_core::{Error, Result};
use lance_io::object_store::{ObjectStore, ObjectStoreParams, ObjectStoreProvider, ObjectStoreRegistry};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3CopyIfNotExists};
use url::Url;

use crate::base::tls::install_provider;

/// Reads and writes that are under way at a time.
const PARALLELISM: usize = 64;

/// A download that breaks off is begun again so many times.
const DOWNLOAD_RETRIES: usize = 3;

/// The places that tables can be in: folders, memory, and `s3://bucket/folder`.
pub fn registry() -> Arc<ObjectStoreRegistry> {
    let registry = ObjectStoreRegistry::default();
    registry.insert("s3", Arc::new(S3));
    Arc::new(registry)
}

#[derive(Debug)]
struct S3;

#[async_trait]
impl ObjectStoreProvider for S3 {
    async fn new_store(&self, url: Url, params: &ObjectStoreParams) -> Result<ObjectStore> {
        install_provider();
        let options = params.storage_options();
        let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retries());
        for (name, value) in options.into_iter().flatten() {
            let key: AmazonS3ConfigKey =
                name.parse().map_err(|_| Error::invalid_input(format!("\"{name}\" is no setting of S3 storage")))?;
            builder = builder.with_config(key, value);
        }
        // A table's next version is a file that must not exist yet; without this two writers would overwrite each other.
        let store = builder.with_copy_if_not_exists(S3CopyIfNotExists::Multipart).build()?;
        let constant_parts = params.use_constant_size_upload_parts;
        Ok(ObjectStore::new(
            Arc::new(store),
            url,
            params.block_size,
            params.object_store_wrapper.clone(),
            constant_parts,
            true,
            PARALLELISM,
            DOWNLOAD_RETRIES,
            options,
        ))
    }
}

/// A store that is down is told of within seconds; the library would try for three minutes.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() }
}
