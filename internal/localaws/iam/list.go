package iam

import (
	"cmp"
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "https://iam.amazonaws.com/doc/2010-05-08/"

// ServeHTTP answers one request of the AWS query protocol.
func (a *Account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeQuery(w, r, namespace, map[string]wire.QueryOperation{"GetAccountAuthorizationDetails": a.authorizationDetails})
}

// details is the answer. Lists are in it also when they are empty, as in the samples of the
// IAM API Reference; but those leave out an empty UserPolicyList.
type details struct {
	IsTruncated     bool
	Marker          string         `xml:",omitempty"`
	UserDetailList  []userDetail   `xml:"UserDetailList>member"`
	GroupDetailList []groupDetail  `xml:"GroupDetailList>member"`
	RoleDetailList  []roleDetail   `xml:"RoleDetailList>member"`
	Policies        []policyDetail `xml:"Policies>member"`
}

type userDetail struct {
	Path, UserName          string
	UserID                  string `xml:"UserId"`
	ARN                     string `xml:"Arn"`
	CreateDate              string
	UserPolicyList          []inlinePolicy   `xml:"UserPolicyList>member"`
	GroupList               []string         `xml:"GroupList>member"`
	AttachedManagedPolicies []attachedPolicy `xml:"AttachedManagedPolicies>member"`
	PermissionsBoundary     *boundary
	Tags                    []tag `xml:"Tags>member"`
}

type groupDetail struct {
	Path, GroupName         string
	GroupID                 string `xml:"GroupId"`
	ARN                     string `xml:"Arn"`
	CreateDate              string
	GroupPolicyList         []inlinePolicy   `xml:"GroupPolicyList>member"`
	AttachedManagedPolicies []attachedPolicy `xml:"AttachedManagedPolicies>member"`
}

type roleDetail struct {
	roleHead
	InstanceProfileList     []instanceProfile `xml:"InstanceProfileList>member"`
	RolePolicyList          []inlinePolicy    `xml:"RolePolicyList>member"`
	AttachedManagedPolicies []attachedPolicy  `xml:"AttachedManagedPolicies>member"`
	PermissionsBoundary     *boundary
	Tags                    []tag `xml:"Tags>member"`
	RoleLastUsed            lastUsed
}

type roleHead struct {
	Path, RoleName           string
	RoleID                   string `xml:"RoleId"`
	ARN                      string `xml:"Arn"`
	CreateDate               string
	AssumeRolePolicyDocument string
}

type instanceProfile struct {
	Path, InstanceProfileName string
	InstanceProfileID         string `xml:"InstanceProfileId"`
	ARN                       string `xml:"Arn"`
	CreateDate                string
	Roles                     []roleHead `xml:"Roles>member"`
}

type lastUsed struct {
	LastUsedDate string `xml:",omitempty"`
	Region       string `xml:",omitempty"`
}

type policyDetail struct {
	PolicyName                    string
	PolicyID                      string `xml:"PolicyId"`
	ARN                           string `xml:"Arn"`
	Path                          string
	DefaultVersionID              string `xml:"DefaultVersionId"`
	AttachmentCount               int
	PermissionsBoundaryUsageCount int
	IsAttachable                  bool
	Description                   string `xml:",omitempty"`
	CreateDate, UpdateDate        string
	PolicyVersionList             []policyVersion `xml:"PolicyVersionList>member"`
}

type policyVersion struct {
	Document         string
	VersionID        string `xml:"VersionId"`
	IsDefaultVersion bool
	CreateDate       string
}

type inlinePolicy struct{ PolicyName, PolicyDocument string }

type attachedPolicy struct {
	PolicyName string
	PolicyARN  string `xml:"PolicyArn"`
}

type boundary struct {
	Type string `xml:"PermissionsBoundaryType"`
	ARN  string `xml:"PermissionsBoundaryArn"`
}

type tag struct{ Key, Value string }

// item is an entry of one of the four lists.
type item struct {
	kind, name string
	add        func(*details)
}

// kinds are what Filter names, in the order in which the lists are gone through, which
// nobody documents: a page holds the end of one list and the beginning of the next.
var kinds = []string{"User", "Group", "Role", "LocalManagedPolicy", "AWSManagedPolicy"}

func (i *item) compare(other *item) int {
	return cmp.Or(slices.Index(kinds, i.kind)-slices.Index(kinds, other.kind), strings.Compare(i.name, other.name))
}

// authorizationDetails lists everything, AWS's policies also when they are attached to
// nobody: whether AWS lists those is not documented.
func (a *Account) authorizationDetails(ctx context.Context, form url.Values) (any, error) {
	const action = "iam:GetAccountAuthorizationDetails"
	if err := a.authorize(wire.CallerFrom(ctx), action); err != nil {
		return nil, err
	}
	most := 100
	if text := form.Get("MaxItems"); text != "" {
		var err error
		if most, err = strconv.Atoi(text); err != nil || most < 1 || most > 1000 {
			return nil, invalid("1 validation error detected: Value '%s' at 'maxItems' failed to satisfy constraint: Member must be between 1 and 1000", text)
		}
	}
	var filter []string
	for _, member := range wire.QueryList(form, "Filter.member") {
		if kind := member.Get(""); slices.Contains(kinds, kind) {
			filter = append(filter, kind)
		} else {
			return nil, invalid("1 validation error detected: Value '%s' at 'filter' failed to satisfy constraint: Member must satisfy enum value set: %v", kind, kinds)
		}
	}
	last := &item{}
	if marker := form.Get("Marker"); marker != "" {
		text, err := base64.StdEncoding.DecodeString(marker)
		kind, name, _ := strings.Cut(string(text), " ")
		if last = (&item{kind: kind, name: name}); err != nil || !slices.Contains(kinds, kind) {
			return nil, invalid("Invalid Marker.")
		}
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := slices.DeleteFunc(a.items(), func(i *item) bool {
		return filter != nil && !slices.Contains(filter, i.kind) || last.kind != "" && i.compare(last) <= 0
	})
	var out details
	if len(list) > most {
		list = list[:most]
		last = list[most-1]
		out.IsTruncated, out.Marker = true, base64.StdEncoding.EncodeToString([]byte(last.kind+" "+last.name))
	}
	for _, i := range list {
		i.add(&out)
	}
	return out, nil
}

// authorize asks the identity policies that the caller has in the account, if it is there,
// and what the caller is allowed besides. Other accounts' callers would see their own.
func (a *Account) authorize(c wire.Caller, action string) error {
	answer, known := a.Decide(Request{Principal: c.ARN, Action: action, Resource: "*"}, Resource{Account: a.id})
	if c.May(action, "*") && c.AccountID == a.id && (answer.Allowed || !known) {
		return nil
	}
	reason := cmp.Or(answer.Reason, "because no identity-based policy allows the "+action+" action")
	return wire.Errorf(http.StatusForbidden, "AccessDenied", "User: %s is not authorized to perform: %s on resource: * %s", c.ARN, action, reason)
}

func invalid(format string, args ...any) error {
	return wire.Errorf(http.StatusBadRequest, "ValidationError", format, args...)
}

// items lists the account in the order of its pages.
func (a *Account) items() (list []*item) {
	for name, e := range a.users {
		list = append(list, &item{"User", name, func(d *details) {
			d.UserDetailList = append(d.UserDetailList, userDetail{
				Path: e.Path, UserName: name, UserID: e.id, ARN: e.arn, CreateDate: timestamp(e.Created), UserPolicyList: e.inline(),
				GroupList: e.groups, AttachedManagedPolicies: e.attached(), PermissionsBoundary: e.boundary(), Tags: e.tags(),
			})
		}})
	}
	for name, e := range a.groups {
		list = append(list, &item{"Group", name, func(d *details) {
			d.GroupDetailList = append(d.GroupDetailList, groupDetail{
				Path: e.Path, GroupName: name, GroupID: e.id, ARN: e.arn, CreateDate: timestamp(e.Created),
				GroupPolicyList: e.inline(), AttachedManagedPolicies: e.attached(),
			})
		}})
	}
	for name, e := range a.roles {
		list = append(list, &item{"Role", name, func(d *details) { d.RoleDetailList = append(d.RoleDetailList, a.role(e)) }})
	}
	for _, m := range a.policies {
		kind := "LocalManagedPolicy"
		if m.AWS {
			kind = "AWSManagedPolicy"
		}
		list = append(list, &item{kind, m.arn, func(d *details) { d.Policies = append(d.Policies, a.policy(m)) }})
	}
	slices.SortFunc(list, (*item).compare)
	return list
}

func (a *Account) role(e *entity) roleDetail {
	r := roleDetail{
		roleHead:       roleHead{Path: e.Path, RoleName: e.Name, RoleID: e.id, ARN: e.arn, CreateDate: timestamp(e.Created), AssumeRolePolicyDocument: encoded(e.Trust)},
		RolePolicyList: e.inline(), AttachedManagedPolicies: e.attached(), PermissionsBoundary: e.boundary(), Tags: e.tags(),
	}
	if !e.LastUsed.IsZero() {
		r.RoleLastUsed = lastUsed{timestamp(e.LastUsed), e.LastUsedRegion}
	}
	for _, name := range e.InstanceProfiles {
		arn := "arn:aws:iam::" + a.id + ":instance-profile/" + name
		r.InstanceProfileList = append(r.InstanceProfileList, instanceProfile{
			Path: "/", InstanceProfileName: name, InstanceProfileID: uniqueID("AIPA", arn), ARN: arn, CreateDate: r.CreateDate,
			Roles: []roleHead{r.roleHead},
		})
	}
	return r
}

func (a *Account) policy(m *managed) policyDetail {
	p := policyDetail{
		PolicyName: m.Name, PolicyID: m.id, ARN: m.arn, Path: m.Path, DefaultVersionID: "v" + strconv.Itoa(m.Default), IsAttachable: true,
		Description: m.Description, CreateDate: timestamp(m.Created), UpdateDate: timestamp(m.Created),
	}
	for _, kept := range []map[string]*entity{a.users, a.groups, a.roles} {
		for _, e := range kept {
			if slices.Contains(e.Attached, m.arn) {
				p.AttachmentCount++
			}
			if e.Boundary == m.arn {
				p.PermissionsBoundaryUsageCount++
			}
		}
	}
	for i, document := range slices.Backward(m.Versions) {
		p.PolicyVersionList = append(p.PolicyVersionList, policyVersion{
			Document: encoded(document), VersionID: "v" + strconv.Itoa(i+1), IsDefaultVersion: i+1 == m.Default, CreateDate: p.CreateDate,
		})
	}
	return p
}

func (e *entity) inline() (list []inlinePolicy) {
	for _, name := range slices.Sorted(maps.Keys(e.Inline)) {
		list = append(list, inlinePolicy{name, encoded(e.Inline[name])})
	}
	return list
}

func (e *entity) attached() (list []attachedPolicy) {
	for _, arn := range e.Attached {
		list = append(list, attachedPolicy{arn[strings.LastIndexByte(arn, '/')+1:], arn})
	}
	return list
}

// boundary has the type "Policy", as AWS's examples and the text of the API reference
// have it; the reference's list of valid values has "PermissionsBoundaryPolicy" instead.
func (e *entity) boundary() *boundary {
	if e.Boundary == "" {
		return nil
	}
	return &boundary{"Policy", e.Boundary}
}

func (e *entity) tags() (list []tag) {
	for _, key := range slices.Sorted(maps.Keys(e.Tags)) {
		list = append(list, tag{key, e.Tags[key]})
	}
	return list
}

// encoded is a policy document as RFC 3986 writes it in a URL.
func encoded(document string) string {
	return strings.ReplaceAll(url.QueryEscape(document), "+", "%20")
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
