package s3

import (
	"net/http"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// acl is the access control list of an object beside its owner's full control.
type acl struct{ grants []grant }

// grant gives a permission to a canonical user (id) or to a group (uri).
type grant struct{ id, uri, permission string }

const (
	allUsers           = "http://acs.amazonaws.com/groups/global/AllUsers"
	authenticatedUsers = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
)

// permissions maps the grant headers to the permissions of objects.
var permissions = map[string]string{
	"X-Amz-Grant-Read": "READ", "X-Amz-Grant-Read-Acp": "READ_ACP", "X-Amz-Grant-Write-Acp": "WRITE_ACP", "X-Amz-Grant-Full-Control": "FULL_CONTROL",
}

func errNoACLs() error {
	return wire.Errorf(400, "AccessControlListNotSupported", "The bucket does not allow ACLs")
}

// aclHeaders reads the ACL of a write: canned or as grants; nil is private. A
// bucket that enforces its owner takes none but bucket-owner-full-control.
func (c *call) aclHeaders() (*acl, error) {
	canned := c.header("X-Amz-Acl")
	var grants []grant
	for header, permission := range permissions {
		for _, value := range c.r.Header.Values(header) {
			g, err := parseGrantees(header, value, permission)
			if err != nil {
				return nil, err
			}
			grants = append(grants, g...)
		}
	}
	if canned == "" && grants == nil {
		return nil, nil
	}
	if canned != "" && grants != nil {
		return nil, wire.Errorf(400, "InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
	}
	c.bucket.mu.RLock()
	enforced := c.bucket.ownership == ownerEnforced
	c.bucket.mu.RUnlock()
	if enforced {
		if canned == "bucket-owner-full-control" {
			return nil, nil
		}
		return nil, errNoACLs()
	}
	if err := c.authorize("s3:PutObjectAcl", c.name, c.key); err != nil {
		return nil, err
	}
	if grants != nil {
		return &acl{grants}, nil
	}
	return cannedACL(canned)
}

// cannedACL returns the grants behind a canned ACL. The bucket's owner owns all
// objects here, so the two bucket-owner ones add nothing.
func cannedACL(name string) (*acl, error) {
	switch name {
	case "private", "bucket-owner-read", "bucket-owner-full-control":
		return nil, nil
	case "public-read":
		return &acl{[]grant{{uri: allUsers, permission: "READ"}}}, nil
	case "public-read-write":
		return &acl{[]grant{{uri: allUsers, permission: "READ"}, {uri: allUsers, permission: "WRITE"}}}, nil
	case "authenticated-read":
		return &acl{[]grant{{uri: authenticatedUsers, permission: "READ"}}}, nil
	}
	return nil, invalidArgument("x-amz-acl", name, "")
}

// parseGrantees reads a grant header: id="…", uri="…".
func parseGrantees(header, value, permission string) ([]grant, error) {
	var grants []grant
	for part := range strings.SplitSeq(value, ",") {
		kind, who, _ := strings.Cut(strings.TrimSpace(part), "=")
		g := grant{permission: permission}
		switch who = strings.Trim(who, `"`); kind {
		case "id":
			g.id = who
		case "uri":
			g.uri = who
		default: // by e-mail address is gone since October 2025
			return nil, invalidArgument(header, value, "Argument format not recognized")
		}
		grants = append(grants, g)
	}
	return grants, nil
}

func (c *call) writeACL(a *acl) error {
	d := newDocument("AccessControlPolicy")
	owner(d, "Owner", c.bucket.owner)
	d.begin("AccessControlList")
	full := grant{id: canonicalUser(c.bucket.owner), permission: "FULL_CONTROL"}
	grants := []grant{full}
	if a != nil {
		for _, g := range a.grants {
			if g != full {
				grants = append(grants, g)
			}
		}
	}
	for _, g := range grants {
		d.begin("Grant")
		if g.uri != "" {
			d.WriteString(`<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="Group">`)
			d.element("URI", g.uri)
		} else {
			d.WriteString(`<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">`)
			d.element("ID", g.id)
		}
		d.end("Grantee")
		d.element("Permission", g.permission)
		d.end("Grant")
	}
	d.end("AccessControlList")
	d.end("AccessControlPolicy")
	return c.xml(d)
}

func (s *Service) getBucketACL(c *call) error { return c.writeACL(nil) }

func (s *Service) getObjectACL(c *call) error {
	v, err := c.version()
	if err != nil {
		return err
	}
	c.setVersion(v)
	return c.writeACL(v.acl)
}

func (s *Service) putObjectACL(c *call) error {
	c.bucket.mu.RLock()
	enforced := c.bucket.ownership == ownerEnforced
	c.bucket.mu.RUnlock()
	if enforced {
		return errNoACLs()
	}
	want, err := c.aclHeaders()
	if err != nil {
		return err
	}
	var in struct {
		Grants []struct {
			Grantee    struct{ ID, URI string }
			Permission string
		} `xml:"AccessControlList>Grant"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if len(in.Grants) > 0 {
		want = &acl{}
		for _, g := range in.Grants {
			if (g.Grantee.ID == "") == (g.Grantee.URI == "") {
				return malformedXML()
			}
			want.grants = append(want.grants, grant{g.Grantee.ID, g.Grantee.URI, g.Permission})
		}
	}
	if _, err := c.version(); err != nil {
		return err
	}
	_, err = c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		v.acl = want
		return nil
	})
	if err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}
