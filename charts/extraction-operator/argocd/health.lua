-- Health of ExtractionJob and DataSource for Argo CD: the same script for both kinds.
-- How to install it: README.md of the chart. Argo CD runs it with Lua 5.1 and gives the object as `obj`.

local spec = obj.spec or {}
local status = obj.status or {}

local function health(state, message)
  return {status = state, message = message or ""}
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready or {}
local stalled = conditions.Stalled or {}

local function said(fallback)
  if ready.message ~= nil and ready.message ~= "" then
    return ready.message
  end
  return fallback
end

if obj.kind == "ExtractionJob" then
  local phase = status.phase
  if phase == "Succeeded" then
    return health("Healthy", said("The set is published."))
  end
  if phase == "Failed" then
    if (spec.retry or 0) > (status.retries or 0) then
      return health("Progressing", "A retry was asked for.")
    end
    return health("Degraded", said("The job failed."))
  end
  if phase == "Cancelled" then
    -- What was asked for; but what waits for the data must not go on.
    return health("Degraded", said("The job was cancelled."))
  end
  -- While it plans or publishes, it goes on although it is to be suspended.
  if spec.suspend and not spec.cancel and ready.reason == "Suspended" then
    return health("Suspended", ready.message)
  end
  return health("Progressing", said("The operator hasn't looked at it yet."))
end

-- A DataSource.
if (status.observedGeneration or -1) < (obj.metadata.generation or 0) then
  return health("Progressing", said("The source is to be checked."))
end
if ready.status == "True" then
  return health("Healthy", ready.message)
end
if stalled.status == "True" then
  return health("Degraded", said("The source can't be used as declared."))
end
-- It can't be reached now; it is checked again and again.
return health("Progressing", said("The source is being checked."))
