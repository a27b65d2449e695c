-- The queries of examples/queries.py. Check them without running them:
--   datalayer queries check examples/queries --url sqlite:// --models examples.queries:Base --migrate

-- name: standings :many
-- How regions compare, the best first.
SELECT region, count(*) AS players, max(score) AS best
FROM players
GROUP BY region
ORDER BY best DESC;

-- name: seen_since :many
SELECT * FROM players WHERE seen > :moment AND region IN :regions ORDER BY id;

-- name: best_score :scalar
SELECT max(score) FROM players WHERE region = :region;

-- name: promote :one
-- writes: players
UPDATE players SET score = score + :by WHERE id = :id RETURNING *;

-- name: rename_region :exec
-- writes: players
UPDATE players SET region = :new WHERE region = :old;
