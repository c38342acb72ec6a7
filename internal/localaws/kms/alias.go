package kms

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type alias struct {
	key              *key
	created, updated time.Time
}

// aliasName matches an alias's name but for its length, maxAliasName: an expression
// that counts is as large as what it counts to.
var aliasName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]+$`)
})

const maxAliasName = 256

func (s *Service) aliasARN(name string) string {
	return "arn:aws:kms:" + s.region + ":" + s.account + ":" + name
}

// managedAlias is the one predefined alias that is modelled. Its AWS managed key
// comes into being when it is first asked for.
const managedAlias = "alias/aws/s3"

func (s *Service) createManagedKey() error {
	c := call{Service: s, now: time.Now()}
	k := c.newKey("Default key that protects my S3 objects when no other key is defined", managerAWS)
	k.materials = []*material{newMaterial(newSecret(), materialCurrent)}
	k.rotationPeriod, k.nextRotation = defaultRotationDays, c.now.Add(defaultRotationDays*day)
	if err := c.setPolicy(k, s.managedPolicy(), true); err != nil {
		return err
	}
	s.keys[k.id] = k
	s.aliases[managedAlias] = &alias{key: k, created: c.now, updated: c.now}
	s.reschedule()
	return nil
}

// checkName refuses names that an alias of a customer cannot have. For the
// reserved prefix the API names InvalidAliasNameException.
func checkName(name string) error {
	switch {
	case !strings.HasPrefix(name, "alias/"):
		return invalid("Alias must start with the prefix \"alias/\".")
	case !aliasName().MatchString(name) || len(name) > maxAliasName:
		return invalid("1 validation error detected: Value '%s' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$", name)
	case strings.HasPrefix(name, "alias/aws/"):
		return wire.Errorf(400, "InvalidAliasNameException", "Alias names that begin with alias/aws/ are reserved.")
	}
	return nil
}

type aliasInput struct {
	AliasName   string `json:"AliasName"`
	TargetKeyID string `json:"TargetKeyId"`
}

func createAlias(c *call, in *aliasInput) error {
	arn := c.aliasARN(in.AliasName)
	c.condition("kms:RequestAlias", in.AliasName)
	if err := checkName(in.AliasName); err != nil {
		return err
	}
	if err := c.authorizeResource(c.name, arn); err != nil {
		return err
	}
	k, err := c.aliasTarget(in.TargetKeyID)
	if err != nil {
		return err
	}
	c.resources = []string{k.arn, arn}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	if c.aliases[in.AliasName] != nil {
		return wire.Errorf(400, "AlreadyExistsException", "An alias with the name %s already exists", arn)
	}
	c.aliases[in.AliasName] = &alias{key: k, created: c.now, updated: c.now}
	return nil
}

// aliasTarget finds the key that an alias shall name.
func (c *call) aliasTarget(ref string) (*key, error) {
	if strings.HasPrefix(ref, "alias/") {
		return nil, invalid("Aliases must refer to keys. Not aliases")
	}
	return c.use(ref, byKey)
}

func updateAlias(c *call, in *aliasInput) error {
	arn := c.aliasARN(in.AliasName)
	if err := checkName(in.AliasName); err != nil {
		return err
	}
	if err := c.authorizeResource(c.name, arn); err != nil {
		return err
	}
	a := c.aliases[in.AliasName]
	if a == nil {
		return notFound("Alias %s is not found.", arn)
	}
	k, err := c.aliasTarget(in.TargetKeyID)
	if err != nil {
		return err
	}
	c.resources = []string{arn, k.arn}
	if err := c.authorize(a.key, a.key.rules, c.name); err != nil {
		return err
	}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	if k.usage != a.key.usage || kind(k) != kind(a.key) {
		// That they must agree is documented, the error is not.
		return invalid("Alias %s cannot be changed to a key of another type or usage", arn)
	}
	a.key, a.updated = k, c.now
	return nil
}

// kind is what the two keys of an UpdateAlias must have in common.
func kind(k *key) string {
	switch {
	case k.symmetric():
		return "symmetric"
	case strings.HasPrefix(k.spec, "HMAC_"):
		return "HMAC"
	}
	return "asymmetric"
}

type aliasNameInput struct {
	AliasName string `json:"AliasName"`
}

func deleteAlias(c *call, in *aliasNameInput) error {
	arn := c.aliasARN(in.AliasName)
	if err := checkName(in.AliasName); err != nil {
		return err
	}
	if err := c.authorizeResource(c.name, arn); err != nil {
		return err
	}
	a := c.aliases[in.AliasName]
	if a == nil {
		return notFound("Alias %s is not found.", arn)
	}
	c.key, c.resources = a.key, []string{arn, a.key.arn}
	if err := c.authorize(a.key, a.key.rules, c.name); err != nil {
		return err
	}
	delete(c.aliases, in.AliasName)
	return nil
}

type listAliasesOutput struct {
	Aliases []aliasEntry `json:"Aliases"`
	pageOutput
}

type aliasEntry struct {
	AliasName       string    `json:"AliasName"`
	AliasArn        string    `json:"AliasArn"`
	TargetKeyID     string    `json:"TargetKeyId"`
	CreationDate    timestamp `json:"CreationDate"`
	LastUpdatedDate timestamp `json:"LastUpdatedDate"`
}

func listAliases(c *call, in *listInput) (listAliasesOutput, error) {
	var out listAliasesOutput
	if err := c.authorizeIdentity(c.name); err != nil {
		return out, err
	}
	var only *key
	if in.KeyID != "" {
		var err error
		if only, err = c.find(in.KeyID, byKey); err != nil {
			return out, err
		}
	}
	entries := []aliasEntry{}
	for _, name := range slices.Sorted(maps.Keys(c.aliases)) {
		if a := c.aliases[name]; only == nil || a.key == only {
			entries = append(entries, aliasEntry{
				AliasName: name, AliasArn: c.aliasARN(name), TargetKeyID: a.key.id,
				CreationDate: timestamp(a.created), LastUpdatedDate: timestamp(a.updated),
			})
		}
	}
	var err error
	out.Aliases, out.pageOutput, err = paginate(entries, func(a aliasEntry) string { return a.AliasName }, in.pageInput, 50, 100)
	return out, err
}
