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
	const stamp = "2006-01-02T15:04:05Z"
	f, t := from.UTC().Format(stamp), to.UTC().Format(stamp)
	if e == Lake {
		f, t = from.UTC().Format(time.DateTime), to.UTC().Format(time.DateTime)
		return fmt.Sprintf(`SELECT eventName, userIdentity.arn AS principal, userIdentity.sessionContext.sessionIssuer.arn AS role,
  userIdentity.invokedBy AS service, sourceIPAddress, element_at(requestParameters, 'encryptionContext') AS context, errorCode,
  count(*) AS calls, min(eventTime) AS first, max(eventTime) AS last
FROM %s
WHERE eventSource = 'kms.amazonaws.com'
  AND any_match(resources, r -> r.arn = '%s')
  AND eventTime >= '%s' AND eventTime < '%s'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY calls DESC`, table, keyARN, f, t), nil
	}
	return fmt.Sprintf(`SELECT eventname, useridentity.arn AS principal, useridentity.sessioncontext.sessionissuer.arn AS role,
  useridentity.invokedby AS service, sourceipaddress, json_extract(requestparameters, '$.encryptionContext') AS context, errorcode,
  count(*) AS calls, min(eventtime) AS first, max(eventtime) AS last
FROM %s
WHERE eventsource = 'kms.amazonaws.com'
  AND any_match(resources, r -> r.arn = '%s')
  AND eventtime >= '%s' AND eventtime < '%s'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY calls DESC`, table, keyARN, f, t), nil
}
