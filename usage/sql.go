package usage

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Engine is where a query runs.
type Engine string

// The engines.
const (
	// Athena queries a table over the log files of a trail, as CloudTrail's console makes it
	// (Athena User Guide, "Query AWS CloudTrail logs").
	Athena Engine = "athena"
	// Lake queries an event data store of CloudTrail Lake.
	Lake Engine = "lake"
)

// Engines returns what an Engine may be.
func Engines() []Engine { return []Engine{Athena, Lake} }

// SQL returns a query that counts the calls for a key as a Table does, a row for each
// operation, principal, service, address, resource and error code. table is the table, or
// the id of the event data store. keyARN and table must have the form that AWS gives them:
// they are put into the query as they are.
func SQL(e Engine, table, keyARN string, from, to time.Time) (string, error) {
	if !slices.Contains(Engines(), e) {
		return "", fmt.Errorf("%q is none of %v", e, Engines())
	}
	if table == "" || strings.ContainsAny(keyARN+table, "'\"\\;\n ") {
		return "", fmt.Errorf("--table %q has a character that the name of a table does not have", table)
	}
	context, stamp := "json_extract(requestParameters, '$.encryptionContext')", "2006-01-02T15:04:05Z"
	if e == Lake {
		context, stamp = "element_at(requestParameters, 'encryptionContext')", time.DateTime
	}
	return fmt.Sprintf(`SELECT eventName, userIdentity.arn AS principal,
  userIdentity.sessionContext.sessionIssuer.arn AS role,
  userIdentity.invokedBy AS service, sourceIPAddress,
  %s AS context,
  errorCode, count(*) AS calls, min(eventTime) AS first, max(eventTime) AS last
FROM %s
WHERE eventSource = 'kms.amazonaws.com'
  AND any_match(resources, r -> r.arn =
    '%s')
  AND eventTime >= '%s' AND eventTime < '%s'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY calls DESC`, context, table, keyARN, from.UTC().Format(stamp), to.UTC().Format(stamp)), nil
}
