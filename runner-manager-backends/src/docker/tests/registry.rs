//! A registry of one image of one layer, on 127.0.0.1, where engines take registries without TLS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

struct Image {
    manifest: Bytes,
    blobs: BTreeMap<String, Bytes>,
    asked: AtomicUsize,
}

/// A registry, which ends with its task. It gives its image under every name.
pub(super) struct Registry {
    pub(super) address: String,
    image: Arc<Image>,
    _tasks: JoinSet<()>,
}

impl Registry {
    pub(super) async fn new(layer: Vec<u8>) -> Self {
        let image = Arc::new(Image::new(layer.into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&image));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, image, _tasks: tasks }
    }

    /// How often the image's manifest was asked for.
    pub(super) fn asked(&self) -> usize {
        self.image.asked.load(Ordering::SeqCst)
    }
}

impl Image {
    fn new(layer: Bytes) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = Bytes::from(config.to_string());
        let part =
            |kind: &str, blob: &Bytes| json!({"mediaType": kind, "size": blob.len(), "digest": digest(blob)});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": part(CONFIG, &config), "layers": [part(LAYER, &layer)],
        });
        let blobs = [config, layer].map(|blob| (digest(&blob), blob)).into();
        Self { manifest: manifest.to_string().into(), blobs, asked: AtomicUsize::new(0) }
    }
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(blob)))
}

async fn answer(State(image): State<Arc<Image>>, request: Request) -> Response {
    let segments: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let (kind, body) = match segments.as_slice() {
        ["v2"] => ("application/json", Bytes::from("{}")),
        [.., "manifests", _] => {
            image.asked.fetch_add(1, Ordering::SeqCst);
            (MANIFEST, image.manifest.clone())
        }
        [.., "blobs", digest] => ("application/octet-stream", image.blobs[*digest].clone()),
        _ => return Response::builder().status(404).body(Body::empty()).unwrap(),
    };
    let answer = Response::builder().header("content-type", kind);
    let answer = answer.header("docker-content-digest", digest(&body)).header("content-length", body.len());
    answer.body(Body::from(body)).unwrap()
}
