-- Queues tasks.
--
-- Arguments: for each its key, its lane, when it is due at the earliest or empty, its priority (0 first), and
-- the task.
-- Reply: ok.

return function()
  push_all()
  commit_and_wake()
  return { 'ok' }
end
