//! How much the model is to think: OpenAI's effort, and the objects in which compatible
//! servers take more than that.

use serde_json::Value;

use crate::members::Members;
use crate::neutral::{Effort, Fault, Reasoning};

type Extra = Vec<(String, Value)>;

/// Reads `reasoning_effort`, OpenRouter's `reasoning`, and the `thinking` of Claude's,
/// DeepSeek's and other vendors' compatible servers.
pub(super) fn read(body: &mut Members, extra: &mut Extra) -> Result<Reasoning, Fault> {
    let mut read = Reasoning { effort: effort(body, "reasoning_effort")?, ..Reasoning::default() };
    if let Some(mut object) = body.object("reasoning")? {
        let given = effort(&mut object, "effort")?;
        read.budget = object.whole("max_tokens")?;
        read.shown = object.flag("exclude")?.map(|hidden| !hidden);
        match object.flag("enabled")? {
            Some(false) => read.effort = Some(Effort::None),
            // Unlike a mere effort, this asks for thinking.
            on => {
                read.effort = given.or(read.effort);
                let asked = on.is_some() || given.is_some_and(|given| given != Effort::None);
                read.adaptive = asked && read.budget.is_none();
            }
        }
        object.rest(extra);
    }
    if let Some(mut object) = body.object("thinking")? {
        let budget = object.whole("budget_tokens")?;
        match &*object.required_text("type")? {
            "enabled" if budget.is_some() => read.budget = budget,
            "enabled" | "adaptive" => read.adaptive = true,
            "disabled" => read.budget = Some(0),
            _ => return Err(object.fault("type", "must be enabled, adaptive or disabled")),
        }
        object.rest(extra);
    }
    Ok(read)
}

fn effort(owner: &mut Members, name: &str) -> Result<Option<Effort>, Fault> {
    let Some(effort) = owner.text(name)? else { return Ok(None) };
    let known = Effort::parse(&effort);
    let problem = "must be none, minimal, low, medium, high, xhigh or max";
    known.map(Some).ok_or_else(|| owner.fault(name, problem))
}
