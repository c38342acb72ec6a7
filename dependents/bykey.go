package dependents

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// Numbers are how many resources of each kind AWS Config knows under each key.
type Numbers struct {
	At time.Time
	// ByKey has, by the key's ARN and the kind, the number. A resource that names a key in
	// several properties counts for each type as often as it does in the property that names
	// the key most often, so the number is the least that there can be.
	ByKey map[string]map[string]int
	// Unknown is what AWS Config was not able to say.
	Unknown []Unknown
}

// maxGroups bounds the pages of an answer: each has 100 of a type's keys.
const maxGroups = 50

// ByKey counts the resources under all keys of an account and Region at once, with a query for
// each property that names a key.
func ByKey(ctx context.Context, api awsconfig.API, keys []string, aliases []inventory.Alias) Numbers {
	n := Numbers{At: time.Now(), ByKey: map[string]map[string]int{}}
	var s Source
	s.ID = SourceConfig
	recorder, err := awsconfig.Read(ctx, api)
	if err != nil {
		s.unknown("", err, awsconfig.Permissions)
	} else {
		s.Unknown = missed(recorder)
	}
	if err == nil && !recorder.Exists {
		n.Unknown = s.Unknown
		return n
	}
	named := map[string]string{} // keys by all their names
	for _, key := range keys {
		named[key], named[arn.KeyID(key)] = key, key
	}
	for _, a := range aliases {
		named[a.Name], named[a.ARN] = a.TargetKeyARN, a.TargetKeyARN
	}
	for _, path := range slices.Concat(groups()...) {
		var types []string
		for _, t := range awsconfig.Types {
			if slices.Contains(t.Keys, path) {
				types = append(types, t.Name)
			}
		}
		query := fmt.Sprintf("SELECT resourceType, %s, COUNT(*) WHERE %s GROUP BY resourceType, %[1]s", path, anyOf([]string{"resourceType"}, types))
		rows, more, err := awsconfig.Select(ctx, api, query, maxGroups)
		counted := map[string]map[string]int{}
		for _, row := range rows {
			kind, name, count, unread := group(row, path)
			if key := named[name]; unread == nil && key != "" {
				if counted[key] == nil {
					counted[key] = map[string]int{}
				}
				counted[key][kind] += count
			} else if unread != nil && err == nil {
				err = unread
			}
		}
		for key, kinds := range counted {
			if n.ByKey[key] == nil {
				n.ByKey[key] = map[string]int{}
			}
			for kind, count := range kinds {
				n.ByKey[key][kind] = max(n.ByKey[key][kind], count)
			}
		}
		if err == nil && more {
			err = fmt.Errorf("its answer has more than %d pages", maxGroups)
		}
		if err != nil {
			s.unknown("", err, awsconfig.Permissions)
			break // the others would be refused, too
		}
	}
	n.Unknown = s.Unknown
	return n
}

// Why says in one line what is not known; "" for nothing.
func (n Numbers) Why() string { return strings.Join(Source{Unknown: n.Unknown}.unknownLines(), "; ") }

// group reads a row: how many resources of a kind name a key so. Without a name they name none.
func group(row json.RawMessage, path string) (kind, name string, count int, err error) {
	var r struct {
		ResourceType string
		N            int `json:"COUNT(*)"`
	}
	if err := json.Unmarshal(row, &r); err != nil {
		return "", "", 0, fmt.Errorf("read a row of AWS Config's answer: %w", err)
	}
	at := row
	for member := range strings.SplitSeq(path, ".") {
		var list []json.RawMessage
		if json.Unmarshal(at, &list) == nil && len(list) > 0 {
			at = list[0] // EKS has one configuration of encryption at most
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(at, &object) != nil || object[member] == nil {
			return awsconfig.TypeOf(r.ResourceType).Kind, "", r.N, nil
		}
		at = object[member]
	}
	if err := json.Unmarshal(at, &name); err != nil {
		return "", "", 0, fmt.Errorf("read a row of AWS Config's answer: %w", err)
	}
	return awsconfig.TypeOf(r.ResourceType).Kind, name, r.N, nil
}
