//! The same API over gRPC, `realmgate.v1.Management`, on the same address.

use realmgate_proto::v1;
use realmgate_proto::v1::management_server::{Management, ManagementServer};
use realmgate_wire::ServerId;
use tonic::{Request, Response, Status};

use super::Context;
use super::error::ApiError;
use super::explain::{self, ExplainQuery};
use super::policy::{self, Change};
use crate::compile::{Explanation, PossibleTarget};
use crate::source::policy_store::Precondition;

/// The service, to be mounted beside the REST paths.
pub(super) fn service(context: Context) -> ManagementServer<Grpc> {
    ManagementServer::new(Grpc(context)).max_decoding_message_size(crate::model::MAX_BYTES + 4096)
}

/// What its paths start with.
pub(super) const NAME: &str = v1::management_server::SERVICE_NAME;

pub(super) struct Grpc(Context);

#[tonic::async_trait]
impl Management for Grpc {
    async fn get_policy(&self, _: Request<v1::GetPolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let current = self.0.policy.current();
        let policy = current.stored.as_ref().map_or_else(v1::Policy::default, |stored| v1::Policy {
            version: stored.info.version,
            etag: stored.info.etag.clone(),
            text: stored.text.to_string(),
            author: stored.info.author.clone(),
            updated: stored.info.time,
        });
        Ok(Response::new(policy))
    }

    async fn put_policy(
        &self,
        request: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::PutPolicyResponse>, Status> {
        let request = request.into_inner();
        let expected = match request.if_match.as_str() {
            "" => Precondition::Any,
            "*" => Precondition::Exists,
            etag => Precondition::Etag(etag.to_owned()),
        };
        let author = Some(request.author).filter(|author| !author.is_empty());
        let change = Change {
            text: request.text,
            dry_run: request.dry_run,
            forced: request.force,
            expected,
            author,
            message: request.message,
        };
        let answer = policy::change(&self.0, change).await?;
        Ok(Response::new(v1::PutPolicyResponse {
            version: answer.version,
            etag: answer.etag,
            changed: answer.changed,
            changes: answer.changes,
            mass_removal: answer.mass_removal.map(|held| held.to_string()).unwrap_or_default(),
        }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        let bounded = |name: &str, value: u32, most: u32| {
            if value > most {
                return Err(Status::invalid_argument(format!("{name}: {value} is above {most}")));
            }
            Ok(value)
        };
        let server_type = bounded("server_type", request.server_type, 255)?;
        let world = bounded("world", request.world, ServerId::MAX_WORLD.into())?;
        let instance = bounded("instance", request.instance, 255)?;
        let query = ExplainQuery {
            // Just bounded.
            server_type: u8::try_from(server_type).unwrap_or_default(),
            world: u16::try_from(world).unwrap_or_default(),
            instance: u8::try_from(instance).unwrap_or_default(),
            source_ip: None,
            listener: Some(request.listener).filter(|name| !name.is_empty()),
            datacenter: request.datacenter,
        };
        Ok(Response::new(explain::answer(&self.0, query).await?.into()))
    }
}

impl From<Explanation> for v1::ExplainResponse {
    fn from(explanation: Explanation) -> Self {
        let destinations = explanation.destinations.into_iter().map(|chosen| v1::Destination {
            cluster: chosen.cluster,
            weight: chosen.weight,
            endpoints: chosen.endpoints,
            chosen: chosen.chosen,
            targets: chosen.targets.into_iter().map(target).collect(),
            refused: chosen.refused,
        });
        Self {
            matched: explanation.matched,
            listener: explanation.listener,
            route: explanation.route.unwrap_or_default(),
            origin: explanation.origin.unwrap_or_default(),
            reason: explanation.reason,
            destinations: destinations.collect(),
            outranked: explanation.outranked,
        }
    }
}

fn target(target: PossibleTarget) -> v1::Target {
    v1::Target {
        priority: u32::try_from(target.priority).unwrap_or(u32::MAX),
        datacenter: target.datacenter,
        service: target.service,
        subset: target.subset,
        share: target.share,
        endpoints: target.endpoints,
        why: target.why,
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
