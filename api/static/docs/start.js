// Shows the description of this service. No validator: the default one runs on another host.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#description", deepLinking: true, validatorUrl: null });
