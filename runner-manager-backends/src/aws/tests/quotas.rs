//! Quotas on processors, of which Service Quotas tells. moto knows none of EC2's, so that a proxy before it plays them.

use std::sync::Arc;

use runner_manager_core::backend::Backend;
use serde_json::{Value, json};

use super::peer::Peer;
use super::{connect, placement};
use crate::testing::fault_proxy::{Harm, Proxy, Seen};

/// Whether a quota of EC2 is asked for.
fn asks(seen: &Seen) -> bool {
    let target = seen.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    target == Some("ServiceQuotasV20190624.GetServiceQuota") && seen.says(r#""ServiceCode":"ec2""#)
}

fn answer(status: u16, body: &Value) -> Harm {
    let headers = vec![("content-type", "application/x-amz-json-1.1".to_owned())];
    Harm::AnswerWith { status, headers, body: body.to_string().into() }
}

/// A backend on moto with these quotas: code, name and value.
async fn with(
    peer: &Peer,
    quotas: &'static [(&'static str, &'static str, f64)],
) -> (Arc<dyn Backend>, Proxy) {
    behind(peer, move |seen| {
        let (code, name, value) = quotas.iter().find(|(code, ..)| seen.says(code)).unwrap();
        let quota = json!({"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": name, "Value": value});
        answer(200, &json!({"Quota": quota}))
    })
    .await
}

async fn behind(
    peer: &Peer,
    told: impl Fn(&Seen) -> Harm + Send + Sync + 'static,
) -> (Arc<dyn Backend>, Proxy) {
    let proxy = Proxy::before(&peer.url, move |seen| asks(seen).then(|| ("asked", told(seen)))).await;
    (connect(&Peer::settings(&proxy.url)).await, proxy)
}

const NO_ROOM: [(&str, &str, f64); 2] =
    [("L-1216C47A", "Standard", 0.0), ("L-34B43A08", "Standard spot", 1.0)];

/// Machines of the tests' type, t3.small, have two processors each.
const ROOM_FOR_FOUR: [(&str, &str, f64); 2] =
    [("L-1216C47A", "Standard", 9.0), ("L-34B43A08", "Standard spot", 1000.0)];

#[tokio::test]
async fn a_quota_without_room_for_one_instance_is_missing() {
    let Some(peer) = Peer::find() else { return };
    let (backend, proxy) = with(&peer, &NO_ROOM).await;
    let mut spot = peer.good();
    spot["spot"] = json!(true);
    let template = json!({"launch_template": {"name": "runners"}});
    let zero = "the quota `Standard` (L-1216C47A) allows 0 processors, and one t3.small has 2";
    let one = "the quota `Standard spot` (L-34B43A08) allows 1 processors, and one t3.small has 2";
    for (settings, told) in [(peer.good(), zero), (spot, one), (template, zero)] {
        let placement = placement(&settings);
        assert_eq!(backend.validate(&placement).await.unwrap(), [told]);
        assert_eq!(backend.remarks(&placement, 9).await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(proxy.counts()["asked"], 6);
}

#[tokio::test]
async fn a_quota_with_room_for_fewer_than_the_group_may_have_is_remarked() {
    let Some(peer) = Peer::find() else { return };
    let (backend, _proxy) = with(&peer, &ROOM_FOR_FOUR).await;
    let mut spot = peer.good();
    spot["spot"] = json!(true);
    let (good, spot) = (placement(&peer.good()), placement(&spot));
    for (placement, max, told) in [(&good, 4, false), (&good, 5, true), (&spot, 500, false)] {
        assert_eq!(backend.validate(placement).await.unwrap(), Vec::<String>::new());
        let remarks = backend.remarks(placement, max).await.unwrap();
        assert_eq!(remarks.len(), usize::from(told), "{max}: {remarks:?}");
        assert!(
            remarks.iter().all(|told| told.contains("is 4 of t3.small at most, and the group's max is 5"))
        );
    }
}

/// Nothing is missing where they cannot be looked at: instances are made all the same.
#[tokio::test]
async fn why_a_quota_is_not_known_is_remarked() {
    let Some(peer) = Peer::find() else { return };
    let good = placement(&peer.good());
    let denied = || {
        let message =
            "User: arn:aws:iam::1:user/ci is not authorized to perform: servicequotas:GetServiceQuota";
        answer(400, &json!({"__type": "AccessDeniedException", "Message": message}))
    };
    let (denied, _first) = behind(&peer, move |_| denied()).await;
    let (lost, _second) = behind(&peer, |_| Harm::Refuse).await;
    let busy = json!({"__type": "TooManyRequestsException", "Message": "Slow down"});
    let (busy, _third) = behind(&peer, move |_| answer(400, &busy)).await;
    for (backend, told) in [
        (denied, "the credentials may not do servicequotas:GetServiceQuota: AccessDeniedException"),
        (lost, "the answer was lost"),
        (busy, "TooManyRequestsException"),
        // moto itself.
        (peer.backend().await, "NoSuchResourceException"),
    ] {
        assert_eq!(backend.validate(&good).await.unwrap(), Vec::<String>::new());
        let remarks = backend.remarks(&good, 5).await.unwrap();
        let [remark] = &remarks[..] else { panic!("{told}: {remarks:?}") };
        let beginning = format!("the quota on processors was not compared: {told}");
        assert!(remark.starts_with(&beginning), "{remark}");
    }
}
