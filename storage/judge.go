package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// keyID is a key's id. Some services name a key of their own instead ("AWS_OWNED_KMS_KEY").
// The form is compiled at first use.
var keyID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:[0-9a-fA-F-]{36}|mrk-[0-9a-f]{32})$`) })

// byName judges a key by its name alone; ok is false where KMS has to be asked.
func (r Rules) byName(name string) (u use, ok bool) {
	a := arn.Parse(name)
	if a.Service == "kms" {
		switch {
		case r.Keys.IsForeign(name):
			return use{rule: Foreign, why: fmt.Sprintf("a key of account %s, which is not trusted", a.Account)}, true
		case a.Account != r.Keys.Account:
			return use{}, true // it is trusted
		case a.Region != r.Region:
			return use{unknown: "keys of Region " + a.Region + " are not looked at"}, true
		}
		name = a.Resource
	}
	name = strings.TrimPrefix(name, "key/")
	switch {
	case strings.HasPrefix(name, "alias/aws/"):
		return use{}, true // AWS manages it
	case strings.HasPrefix(name, "alias/"), keyID().MatchString(name):
		return use{}, false
	}
	return use{}, true // no key of the account
}

// byKey judges a key of the account as KMS describes it, or by KMS's error.
func byKey(k inventory.Key, err error) use {
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return use{rule: Unusable, why: "which does not exist"}
	case err != nil:
		return use{unknown: err.Error()}
	case !k.Guarded():
		return use{} // AWS manages it
	}
	u := use{arn: k.ARN}
	switch k.State {
	case "Enabled", "Updating", "Creating":
	default:
		u.rule, u.why = Unusable, "which is in state "+k.State
	}
	return u
}

// valuesAt returns the texts at a path of a row: of an array what is at it in each element.
func valuesAt(row json.RawMessage, path string) ([]string, error) {
	var document any
	if err := json.Unmarshal(row, &document); err != nil {
		return nil, fmt.Errorf("read a row of AWS Config: %w", err)
	}
	return texts(document, strings.Split(path, ".")), nil
}

func texts(value any, path []string) (all []string) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			all = append(all, texts(element, path)...)
		}
	case map[string]any:
		if len(path) > 0 {
			return texts(v[path[0]], path[1:])
		}
	case string:
		if len(path) == 0 && v != "" {
			return []string{v}
		}
	case bool:
		if len(path) == 0 {
			return []string{fmt.Sprint(v)}
		}
	}
	return all
}
