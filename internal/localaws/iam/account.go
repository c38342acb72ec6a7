package iam

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Account is IAM of one account: its users, groups, roles and policies, and an
// http.Handler that lists them and expects wire.WithRequest's values in the request's
// context. The root user is always there. Its methods may be called concurrently.
type Account struct {
	id string

	mu       sync.RWMutex
	users    map[string]*entity // by name, as groups and roles
	groups   map[string]*entity
	roles    map[string]*entity
	policies map[string]*managed // by ARN
}

// NewAccount returns IAM of the account, twelve digits, with nothing in it.
func NewAccount(id string) *Account {
	return &Account{id: id, users: map[string]*entity{}, groups: map[string]*entity{}, roles: map[string]*entity{}, policies: map[string]*managed{}}
}

// User is an IAM user.
type User struct {
	// Name is the user's, Path "/" if empty.
	Name, Path string
	Created    time.Time
	// Groups are the names of the groups that the user is in.
	Groups []string
	// Inline are policy documents by the policy's name, Attached ARNs of managed policies.
	Inline   map[string]string
	Attached []string
	// Boundary is the ARN of the managed policy that is the permissions boundary, or "".
	Boundary string
	Tags     map[string]string
}

// Group is an IAM group; its fields are as those of [User].
type Group struct {
	Name, Path string
	Created    time.Time
	Inline     map[string]string
	Attached   []string
}

// Role is an IAM role; the fields that a [User] has too are alike.
type Role struct {
	Name, Path string
	Created    time.Time
	// Trust is the trust policy: who may assume the role.
	Trust    string
	Inline   map[string]string
	Attached []string
	Boundary string
	Tags     map[string]string
	// InstanceProfiles are the names of the instance profiles that hold the role.
	InstanceProfiles []string
	// LastUsed is when the role was last used, zero for not in the tracked time, and
	// LastUsedRegion where.
	LastUsed       time.Time
	LastUsedRegion string
}

// ManagedPolicy is a policy of its own that identities are attached to.
type ManagedPolicy struct {
	Name, Path  string
	Description string
	Created     time.Time
	// AWS says that it is AWS's, not the customer's.
	AWS bool
	// Versions are the documents of v1, v2 and so on. The last one is in force, or the one
	// that Default numbers from 1.
	Versions []string
	Default  int
}

// entity is a user, a group or a role as it is kept: the fields of a Role and the groups of
// a user, with what follows from them.
type entity struct {
	Role
	groups   []string
	id, arn  string
	policies []*Policy // inline
	trust    *Policy
}

type managed struct {
	ManagedPolicy
	id, arn string
	policy  *Policy // the version in force
}

// SetUser puts a user in the place of one of the same name, if any, and returns its ARN. It
// is an error, and nothing changes, if the name or the path is not valid, a policy is
// malformed, or a group or a managed policy does not exist; so it is with SetGroup and SetRole.
func (a *Account) SetUser(u User) (arn string, err error) {
	return a.set(a.users, "user", &entity{groups: slices.Clone(u.Groups), Role: Role{
		Name: u.Name, Path: u.Path, Created: u.Created, Inline: u.Inline, Attached: u.Attached, Boundary: u.Boundary, Tags: u.Tags,
	}})
}

// SetGroup puts a group in the place of one of the same name, if any, and returns its ARN.
func (a *Account) SetGroup(g Group) (arn string, err error) {
	return a.set(a.groups, "group", &entity{Role: Role{Name: g.Name, Path: g.Path, Created: g.Created, Inline: g.Inline, Attached: g.Attached}})
}

// SetRole puts a role in the place of one of the same name, if any, and returns its ARN.
func (a *Account) SetRole(r Role) (arn string, err error) {
	return a.set(a.roles, "role", &entity{Role: r})
}

func (a *Account) set(into map[string]*entity, kind string, e *entity) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.Path == "" {
		e.Path = "/"
	}
	if err := a.check(kind, e); err != nil {
		return "", fmt.Errorf("%s %q: %w", kind, e.Name, err)
	}
	e.Inline, e.Tags = maps.Clone(e.Inline), maps.Clone(e.Tags)
	e.Attached, e.InstanceProfiles = slices.Clone(e.Attached), slices.Clone(e.InstanceProfiles)
	e.arn = "arn:aws:iam::" + a.id + ":" + kind + e.Path + e.Name
	e.id = uniqueID(map[string]string{"user": "AIDA", "group": "AGPA", "role": "AROA"}[kind], e.arn)
	into[e.Name] = e
	return e.arn, nil
}

// check parses the entity's policies and says what is wrong with it.
func (a *Account) check(kind string, e *entity) error {
	errs := []error{checkName(e.Name, e.Path)}
	for name, document := range e.Inline {
		p, err := ParseIdentity([]byte(document))
		if err != nil {
			errs = append(errs, fmt.Errorf("inline policy %q: %w", name, err))
			continue
		}
		e.policies = append(e.policies, p)
	}
	if kind == "role" {
		var err error
		if e.trust, err = ParseTrust([]byte(e.Trust)); err != nil {
			errs = append(errs, fmt.Errorf("trust policy: %w", err))
		}
	}
	for _, g := range e.groups {
		if a.groups[g] == nil {
			errs = append(errs, fmt.Errorf("group %q does not exist: set it first", g))
		}
	}
	for _, arn := range append(slices.Clone(e.Attached), e.Boundary) {
		if arn != "" && a.policies[arn] == nil {
			errs = append(errs, fmt.Errorf("policy %q does not exist or is not attachable: set it first", arn))
		}
	}
	return errors.Join(errs...)
}

// SetPolicy puts a managed policy in the place of one of the same ARN, if any, and returns
// its ARN. It is an error, and nothing changes, if the name or the path is not valid, a
// version is malformed, or there is no version in force.
func (a *Account) SetPolicy(p ManagedPolicy) (arn string, err error) {
	if p.Path == "" {
		p.Path = "/"
	}
	if p.Default == 0 {
		p.Default = len(p.Versions)
	}
	m := &managed{ManagedPolicy: p}
	m.Versions = slices.Clone(p.Versions)
	errs := []error{checkName(p.Name, p.Path)}
	for i, document := range p.Versions {
		parsed, err := ParseIdentity([]byte(document))
		if err != nil {
			errs = append(errs, fmt.Errorf("version v%d: %w", i+1, err))
		}
		if i+1 == p.Default {
			m.policy = parsed
		}
	}
	if p.Default < 1 || p.Default > len(p.Versions) {
		errs = append(errs, errors.New("no version v"+strconv.Itoa(p.Default)))
	}
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("policy %q: %w", p.Name, err)
	}
	owner := a.id
	if p.AWS {
		owner = "aws"
	}
	m.arn = "arn:aws:iam::" + owner + ":policy" + p.Path + p.Name
	m.id = uniqueID("ANPA", m.arn)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policies[m.arn] = m
	return m.arn, nil
}

var (
	validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\w+=,.@-]{1,128}$`) })
	validPath = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/([\x21-\x7e]+/)?$`) })
)

func checkName(name, path string) error {
	if !validName().MatchString(name) {
		return errors.New("the name is not valid: it has 1 to 128 letters, digits and _+=,.@-")
	}
	if !validPath().MatchString(path) {
		return fmt.Errorf("the path %q is not valid: it begins and ends with /", path)
	}
	return nil
}

// uniqueID makes the id of what has the ARN, always the same.
func uniqueID(prefix, arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

// principal returns the user, or the role of a session, that an ARN is of; nil for none.
func (a *Account) principal(arn string) *entity {
	if name, ok := strings.CutPrefix(arn, "arn:aws:sts::"+a.id+":assumed-role/"); ok {
		name, _, _ = strings.Cut(name, "/")
		return a.roles[name]
	}
	for _, kept := range []map[string]*entity{a.users, a.roles} {
		if e := kept[arn[strings.LastIndexByte(arn, '/')+1:]]; e != nil && e.arn == arn {
			return e
		}
	}
	return nil
}
